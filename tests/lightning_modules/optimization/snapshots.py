"""Notes weights and optimizer states after every batch."""

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

Snapshot = dict[str, Tensor]


def snapshot(module: Any) -> Snapshot:
    """All weights, and all states of the optimizer, by parameter name; copies."""
    taken: Snapshot = {}
    for name, parameter in module.named_parameters():
        taken[name] = parameter.detach().clone()
        for key, value in module.adamw.state.get(parameter, {}).items():
            taken[f"{key} of {name}"] = value.detach().clone()
    return taken


def are_equal(one: Snapshot, other: Snapshot) -> bool:
    """Whether both hold the same, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Snapshots(Callback):
    """``taken[i]`` is how things stood before batch i; the last one, at the end."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.taken.append(snapshot(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.taken.append(snapshot(pl_module))
