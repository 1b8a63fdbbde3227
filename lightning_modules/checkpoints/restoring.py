"""Reads a checkpoint into a model and its optimizer: every rank what it needs, found by name."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.weights.run_checkpoint import RunCheckpoint, state_name
from lightning_modules.checkpoints.access import ParameterAccess
from lightning_modules.checkpoints.saving import named_groups, persistent_buffers


class SavedWeights(Protocol):
    """What restoring weights asks of a checkpoint; an export gives it as well."""

    path: Path
    left_out: frozenset[str]

    @property
    def parameters(self) -> frozenset[str]:
        """See ``RunCheckpoint``."""

    @property
    def has_averages(self) -> bool:
        """See ``RunCheckpoint``."""

    def shape(self, parameter: str) -> torch.Size:
        """See ``RunCheckpoint``."""

    def weight(self, parameter: str, *, averaged: bool = False) -> Tensor:
        """See ``RunCheckpoint``."""


_log = logging.getLogger(__name__)


@torch.no_grad()
def restore_weights(
    module: nn.Module, access: ParameterAccess, checkpoint: SavedWeights, *, averaged: bool = False
) -> None:
    """Take over a checkpoint's parameters and buffers.

    Parameters that it left out because they did not train keep the value that they were built with.

    Args:
        module: The model.
        access: Where its parameters are.
        checkpoint: The checkpoint.
        averaged: Take the running averages of the parameters that have one.

    Raises:
        ValueError: The checkpoint does not fit the model (see ``refuse_misfit``), or has no averages.
    """
    refuse_misfit(module, access, checkpoint)
    if averaged and not checkpoint.has_averages:
        raise ValueError(f"{checkpoint.path} has no running averages: the run did not keep any")
    stored = checkpoint.parameters
    own = dict(module.named_parameters())
    for name, parameter in own.items():
        if name in stored:
            access.put(parameter, None, checkpoint.weight(name, averaged=averaged))
    for name, buffer in persistent_buffers(module).items():
        if name in stored:
            buffer.copy_(checkpoint.weight(name))
    late = [name for name, parameter in own.items() if parameter.requires_grad and name not in stored]
    if late:
        _log.info("did not train in %s and start from where they came from: %s", checkpoint.path, _by_part(late))


def refuse_misfit(module: nn.Module, access: ParameterAccess, checkpoint: SavedWeights) -> None:
    """Check that a checkpoint is of these parts.

    Raises:
        ValueError: Trainable tensors are missing though their part trained, it has tensors that the model does not
            know, or of another shape: the configured parts are not those that were trained, and the result would be
            partly random.
    """
    stored = checkpoint.parameters
    own = dict(module.named_parameters())
    known = own | persistent_buffers(module)
    # What was frozen then may train now; so may tensors that were added to a part of which nothing trained (adapters).
    trained = {_part(name) for name in stored}
    untrained = {_part(name) for name in checkpoint.left_out} - trained
    missing = [
        name
        for name, parameter in own.items()
        if parameter.requires_grad
        and name not in stored
        and name not in checkpoint.left_out
        and _part(name) not in untrained
    ]
    unknown = stored - set(known)
    other = [
        f"{name} {list(checkpoint.shape(name))} instead of {list(access.shape(known[name]))}"
        for name in sorted(stored & set(known))
        if checkpoint.shape(name) != access.shape(known[name])
    ]
    if missing or unknown or other:
        raise ValueError(
            f"the checkpoint does not fit the configured model, {checkpoint.path}: missing {sorted(missing)[:5]} "
            f"({len(missing)} in all), unknown {sorted(unknown)[:5]} ({len(unknown)} in all), of another shape "
            f"{other[:5]} ({len(other)} in all). Use the config that the run was trained with"
        )


@torch.no_grad()
def restore_optimizer(
    module: nn.Module, access: ParameterAccess, checkpoint: RunCheckpoint, kept: Mapping[str, Any]
) -> None:
    """Take over an optimizer's states and learning rates; its other settings stay those of the config.

    Rates are found by the group's name, states by the parameter's: groups may have changed. What did not train before
    starts without a state.

    Args:
        module: The model, its weights restored.
        access: Where the optimizer's states are.
        checkpoint: The checkpoint.
        kept: What ``describe_optimizer`` gave.
    """
    assert access.optimizer is not None
    rates = {group["name"]: group["lr"] for group in kept["groups"]}
    for name, group in named_groups(access.optimizer):
        group["lr"] = rates.get(name, group["lr"])  # which a scheduler sets after the next step, and not before
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    states = checkpoint.optimizer_states()
    fresh = []
    for slot in access.slots():
        inside = {names[id(parameter)]: parameter for parameter in slot.parameters}
        numbers = [kept["numbers"].get(name) for name in inside]
        if numbers[0] is None or any(each != numbers[0] for each in numbers):
            # One state serves all of the slot. With some parameters' moments and others' zeros under one count of
            # steps, the first updates of the latter would be several times too large.
            fresh += [name for name, parameter in inside.items() if parameter.requires_grad]
            continue
        access.make_state(slot)
        access.set_numbers(slot, numbers[0])
        for name, parameter in inside.items():
            for state in access.tensor_states(parameter):
                if state in states.get(name, ()):
                    access.put(parameter, state, checkpoint[state_name(state, name)])
    if fresh:
        _log.info("the optimizer starts anew for: %s", _by_part(fresh))


def _part(name: str) -> str:
    """The part of the model that a parameter belongs to, such as ``model.bridge``."""
    return ".".join(name.split(".")[:2])


def _by_part(names: Iterable[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in Counter(map(_part, names)).items())
