"""Which weights of a model come from no file.

A frozen weight is left out of a checkpoint, because it is in the file that it was loaded from. A weight that was drawn
at random is in no file: whoever builds a part says so here, and the weight is written.
"""

from collections.abc import Iterable

from torch import nn

_MARK = "names_of_random_weights"


def mark_random(model: nn.Module, names: Iterable[str] = ("",)) -> None:
    """Note that weights of a model were drawn at random.

    Args:
        model: The model. Adapters may be put into it later.
        names: Names of its parameters, or what they begin with; all of them by default.
    """
    setattr(model, _MARK, tuple(names))


def random_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters of a module that were drawn at random, as far as its parts have noted it."""
    found = set()
    for place, part in module.named_modules():
        beginnings: tuple[str, ...] = getattr(part, _MARK, ())
        if beginnings:
            names = (name for name, _ in part.named_parameters() if name.startswith(beginnings))
            found |= {f"{place}.{name}" if place else name for name in names}
    return found
