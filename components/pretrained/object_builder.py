"""Builds objects from settings: ``{class_path, init_args}``, as configs name them. No jsonargparse is needed.

The annotations of a constructor say what each argument may be. A class that does not fit its annotation is refused, so
settings from somebody else can build this project's parts and nothing more.
"""

import dataclasses
import importlib
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from components.old_class_paths import with_new_class_paths
from components.recorded_arguments import constructor_hints

OWN_PACKAGES = ("components", "datamodules", "lightning_modules", "membridge")
"""Packages whose classes settings may name."""

_ObjectT = TypeVar("_ObjectT")


class SettingsMismatchError(ValueError):
    """Settings do not describe an object that can be built."""


def build_object(
    cls: type[_ObjectT], arguments: Mapping[str, Any], packages: Collection[str] = (), where: str = "model"
) -> _ObjectT:
    """Build an object, and first all objects that its arguments describe.

    - Where a class is annotated, ``{class_path, init_args}`` becomes an object of it.
    - Where ``Callable[..., Part]`` is annotated, it becomes a factory: the class with these arguments bound.
    - A dataclass needs no ``class_path``; a class without arguments may be its path alone.

    Args:
        cls: Class of the object.
        arguments: Its constructor arguments, as plain values.
        packages: Packages besides this project's own whose classes may be named.
        where: Position in the settings, for messages.

    Raises:
        SettingsMismatchError: The settings name a class of another package, a class that does not exist or does not
            fit, or an argument that its class does not have.
    """
    return cls(**_built_arguments(cls, arguments, packages, where))


def _built_arguments(cls: type, arguments: Mapping[str, Any], packages: Collection[str], where: str) -> dict[str, Any]:
    """Build the values of a constructor's arguments; see ``build_object``."""
    parameters = inspect.signature(cls).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    unknown = [name for name in arguments if name not in parameters and not takes_any]
    if unknown:
        raise SettingsMismatchError(
            f"{where}: {cls.__name__} has no argument {', '.join(unknown)}; it has {', '.join(parameters)}. The "
            "settings may be of a newer version of this project"
        )
    hints = get_type_hints(cls) if _is_record(cls) else constructor_hints(cls)
    return {name: _build(hints.get(name, Any), value, packages, f"{where}.{name}") for name, value in arguments.items()}


def find_class(class_path: str, packages: Collection[str] = (), where: str = "model") -> type:
    """Import a class by its path, or by the path that it had in an earlier version.

    Raises:
        SettingsMismatchError: It is of a package that may not be named, or does not exist.
    """
    class_path = with_new_class_paths(class_path)
    module_name, _, name = class_path.rpartition(".")
    if class_path.split(".")[0] not in {*OWN_PACKAGES, *packages}:
        raise SettingsMismatchError(
            f"{where} names ['{class_path}'], which is not of this project, so building it would run code of its "
            "author's choice. If you know where it comes from, allow its package: "
            f"packages=['{class_path.split('.')[0]}']"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SettingsMismatchError(f"{where}: there is no class {class_path} ({error})") from error
    if not isinstance(found, type):
        raise SettingsMismatchError(f"{where}: {class_path} is no class")
    return found


def _build(hint: Any, value: Any, packages: Collection[str], where: str) -> Any:
    options = _options(hint)
    is_path = isinstance(value, str) and _expects_class(options) and not _expects_text(options, value)
    if is_path or (isinstance(value, Mapping) and "class_path" in value):
        described = {"class_path": value} if is_path else value
        cls = find_class(described["class_path"], packages, where)
        return _object_or_factory(options, cls, described.get("init_args") or {}, packages, where)
    if isinstance(value, Mapping):
        record = next((option for option in options if _is_record(option)), None)
        is_mapping = any(_fits(dict, option) for option in options)
        if record is not None and not (is_mapping and value.keys() - inspect.signature(record).parameters.keys()):
            return build_object(record, value, packages, where)
        inner = _inner_hint(options, -1)
        return {key: _build(inner, each, packages, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        inner = _inner_hint(options, 0)
        items = [_build(inner, each, packages, f"{where}[{number}]") for number, each in enumerate(value)]
        return tuple(items) if any((get_origin(option) or option) is tuple for option in options) else items
    return value


def _object_or_factory(
    options: list[Any], cls: type, arguments: Mapping[str, Any], packages: Collection[str], where: str
) -> Any:
    if any(_fits(cls, option) for option in options):
        return build_object(cls, arguments, packages, where)
    returned = [option for factory in options for option in _returned(factory)]
    if not any(_fits(cls, option) for option in returned):
        wanted = sorted({getattr(option, "__name__", str(option)) for option in [*options, *returned]})
        raise SettingsMismatchError(f"{where}: {cls.__module__}.{cls.__name__} is no {' or '.join(wanted)}")
    bound = _built_arguments(cls, arguments, packages, where)
    return partial(cls, **bound) if bound else cls


def _options(hint: Any) -> list[Any]:
    """The alternatives of an annotation: ``X | None`` gives ``X`` and ``NoneType``."""
    if get_origin(hint) in (Union, types.UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [hint]


def _returned(option: Any) -> list[Any]:
    """What a factory returns; nothing for an annotation that is no ``Callable``."""
    return _options(get_args(option)[-1]) if get_origin(option) is Callable and get_args(option) else []


def _fits(cls: type, option: Any) -> bool:
    wanted = get_origin(option) or option
    # Every class whose objects can be called is a Callable to issubclass.
    return isinstance(wanted, type) and wanted not in (object, Callable) and issubclass(cls, wanted)


def _is_record(option: Any) -> bool:
    """Whether a class is a dataclass or a named tuple, whose settings need not name it."""
    return isinstance(option, type) and (dataclasses.is_dataclass(option) or hasattr(option, "_fields"))


def _expects_class(options: list[Any]) -> bool:
    plain = (str, int, float, bool, type(None), dict, list, tuple)
    return any(_returned(option) or (_is_class(option) and not issubclass(option, plain)) for option in options)


def _is_class(option: Any) -> bool:
    return isinstance(option, type) and get_origin(option) is None


def _expects_text(options: list[Any], value: str) -> bool:
    return any(option is str or (get_origin(option) is Literal and value in get_args(option)) for option in options)


def _inner_hint(options: list[Any], position: int) -> Any:
    """Annotation of the values of a mapping (``position`` -1) or of the items of a sequence (0)."""
    found = [get_args(option) for option in options if get_args(option) and not _returned(option)]
    return next((each[position] for each in found), Any)
