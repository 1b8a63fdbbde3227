"""Lets every part remember how it was made, so that a model can be written to a folder and built again.

``components.pretrained`` writes the arguments of a part, and of the parts that are its arguments, as a config.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Self, get_type_hints

_RECORD = "_constructor_arguments"


class RecordsArguments:
    """Base of classes whose objects remember the arguments that they were constructed with."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments; ``__init__`` then runs as usual."""
        self = super().__new__(cls)
        # Not by setattr: before nn.Module.__init__ has run, a module refuses arguments that are modules.
        object.__setattr__(self, _RECORD, (args, kwargs))
        return self


def constructor_arguments(part: RecordsArguments) -> Mapping[str, Any]:
    """The arguments that an object was constructed with, by name, defaults included."""
    args, kwargs = getattr(part, _RECORD)
    parameters = constructor_parameters(type(part))
    bound = inspect.Signature(list(parameters.values())).bind(*args, **kwargs)
    bound.apply_defaults()
    found = dict(bound.arguments)
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(name)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found.pop(name)
    return found


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor, without ``self``."""
    constructor: Any = cls.__init__  # type: ignore[misc]  # of this very class
    return dict(list(inspect.signature(constructor).parameters.items())[1:])


def constructor_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class's constructor, by parameter."""
    constructor: Any = cls.__init__  # type: ignore[misc]  # of this very class
    return get_type_hints(constructor)


def replace_argument(part: RecordsArguments, name: str, value: Any) -> None:
    """Record another value for an argument, after an object was changed into what that value would have given."""
    object.__setattr__(part, _RECORD, ((), {**constructor_arguments(part), name: value}))
