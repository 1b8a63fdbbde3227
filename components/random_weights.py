"""Marks weights that were initialised at random, so that checkpoints store them even if they are frozen.

Frozen weights are normally not stored, because they can be loaded from their file again. Random weights have no file.
The code that builds a part marks them with ``mark_random``.
"""

from collections.abc import Iterable

from torch import nn

_MARK = "names_of_random_weights"


def mark_random(model: nn.Module, names: Iterable[str] = ("",)) -> None:
    """Mark weights of a model as randomly initialised.

    Args:
        model: The model. Adapters may be added to it later.
        names: Names, or beginnings of names, of parameters; all by default.
    """
    setattr(model, _MARK, tuple(names))


def random_parameters(module: nn.Module) -> set[str]:
    """Names of all parameters in a module and its submodules that are marked as random."""
    found = set()
    for path, part in module.named_modules():
        beginnings: tuple[str, ...] = getattr(part, _MARK, ())
        if beginnings:
            names = (name for name, _ in part.named_parameters() if name.startswith(beginnings))
            found |= {f"{path}.{name}" if path else name for name in names}
    return found
