"""Finds the repeated blocks of a model (transformer layers), the units in which FSDP2 gathers and frees weights."""

from collections.abc import Iterator, Sequence

from torch import nn


def repeated_blocks(model: nn.Module, class_names: Sequence[str] | None = None) -> list[nn.Module]:
    """Find the transformer layers of a model.

    Args:
        model: Any model.
        class_names: Names of the blocks' classes. By default, blocks are the elements of a ``ModuleList`` whose
            elements have weights and one class. Only outermost lists count: the decoder layers of a language model,
            not the experts within them.

    Returns:
        The blocks in the model's order; no block contains another.
    """
    return list(_elements_of_lists(model) if class_names is None else _instances(model, set(class_names)))


def _elements_of_lists(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList) and _are_alike(module):
        yield from module
        return
    for child in module.children():
        yield from _elements_of_lists(child)


def _are_alike(modules: nn.ModuleList) -> bool:
    weighty = all(next(module.parameters(), None) is not None for module in modules)
    return len(modules) > 0 and weighty and len({type(module) for module in modules}) == 1


def _instances(module: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    if type(module).__name__ in names:
        yield module
        return
    for child in module.children():
        yield from _instances(child, names)
