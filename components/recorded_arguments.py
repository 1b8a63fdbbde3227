"""Lets every part remember how it was made, so that a model can be written to a folder and built again.

``components.pretrained`` writes the arguments of a part, and of the parts that are its arguments, as a config.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Self

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
    bound = inspect.signature(type(part).__init__).bind(part, *args, **kwargs)
    bound.apply_defaults()
    found = dict(list(bound.arguments.items())[1:])
    for name, parameter in inspect.signature(type(part).__init__).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(name)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found.pop(name)
    return found
