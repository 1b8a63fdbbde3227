"""Describes objects as settings, from which ``object_builder`` builds equal ones; the reverse of that module."""

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.recorded_arguments import RecordsArguments, constructor_arguments, constructor_parameters


def describe_arguments(part: RecordsArguments, where: str = "model") -> dict[str, Any]:
    """Describe the arguments of an object, complete with defaults, as values that JSON can hold.

    An argument whose default is a function is left out: it connects the object to its process (agreement of ranks), and
    a process that opens the description has its own.

    Args:
        part: The object.
        where: Its position in the settings, for messages.

    Raises:
        TypeError: An argument cannot be described, such as a function in place of a class.
    """
    parameters = constructor_parameters(type(part))
    return {
        name: _describe(value, f"{where}.{name}")
        for name, value in constructor_arguments(part).items()
        if name not in parameters or not inspect.isfunction(parameters[name].default)
    }


def _describe(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, RecordsArguments):
        return _named(type(value), describe_arguments(value, where))
    if isinstance(value, type):
        return _named(value, {})
    if isinstance(value, partial):
        return _describe_factory(value, where)
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return _named(type(value), _describe(fields, where))
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _named(type(value), _describe(value._asdict(), where))
    if isinstance(value, Mapping):
        return {str(key): _describe(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(each, f"{where}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which cannot be written to a folder: give a class or a "
        "functools.partial of one where a factory is needed, and parts that derive from components.interfaces"
    )


def _describe_factory(factory: "partial[Any]", where: str) -> dict[str, Any]:
    cls, arguments = factory.func, list(factory.args)
    if not isinstance(cls, type) and arguments and isinstance(arguments[0], type):
        cls = arguments.pop(0)  # jsonargparse binds a function that calls the class
    if not isinstance(cls, type):
        raise TypeError(f"{where} binds arguments of {cls!r}, which is no class; give a functools.partial of a class")
    names = list(constructor_parameters(cls))
    given = dict(zip(names, arguments, strict=False)) | factory.keywords
    return _named(cls, {name: _describe(value, f"{where}.{name}") for name, value in given.items()})


def _named(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    path = f"{cls.__module__}.{cls.__qualname__}"
    return {"class_path": path, "init_args": dict(arguments)} if arguments else {"class_path": path}
