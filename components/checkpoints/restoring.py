"""Reads a checkpoint into a model and its optimizer: every rank what it needs, found by name."""

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.checkpoints.frozen_parts_check import WeightsOfRun, count_by_part, part_of
from components.checkpoints.parameter_access import ParameterAccess
from components.checkpoints.run_checkpoint import RunCheckpoint, state_name
from components.checkpoints.saving import named_groups, persistent_buffers


class SavedWeights(WeightsOfRun, Protocol):
    """What restoring weights asks of a checkpoint; an export gives it as well."""

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
    module: nn.Module,
    access: ParameterAccess,
    checkpoint: SavedWeights,
    *,
    averaged: bool = False,
    parts: Collection[str] | None = None,
) -> None:
    """Take over a checkpoint's parameters and buffers.

    Parameters that it left out because they did not train keep the value that they were built with.

    Args:
        module: The model.
        access: Where its parameters are.
        checkpoint: The checkpoint; that it fits the model was checked (``refuse_misfit``).
        averaged: Take the running averages of the parameters that have one.
        parts: Parts to take over, such as ``model.bridge``; all by default.

    Raises:
        ValueError: The checkpoint has no averages.
    """
    if averaged and not checkpoint.has_averages:
        raise ValueError(f"{checkpoint.path} has no running averages: the run did not keep any")
    stored = _wanted(checkpoint.parameters, parts)
    own = _wanted(dict(module.named_parameters()), parts)
    for name, parameter in module.named_parameters():
        if name in stored:
            access.assign(parameter, None, checkpoint.weight(name, averaged=averaged))
    for name, buffer in persistent_buffers(module).items():
        if name in stored:
            buffer.copy_(checkpoint.weight(name))
    late = [name for name, parameter in module.named_parameters() if parameter.requires_grad and name in own - stored]
    if late:
        _log.info("did not train in %s and start from where they came from: %s", checkpoint.path, count_by_part(late))


def refuse_misfit(
    module: nn.Module, access: ParameterAccess, checkpoint: SavedWeights, parts: Collection[str] | None = None
) -> None:
    """Check that a checkpoint is of these parts.

    Args:
        module: The model.
        access: Where its parameters are.
        checkpoint: The checkpoint.
        parts: Parts to look at; all by default.

    Raises:
        ValueError: Trainable tensors are missing though their part trained, it has tensors that the model does not
            know, or of another shape: the configured parts are not those that were trained, and the result would be
            partly random.
    """
    stored = _wanted(checkpoint.parameters, parts)
    own = {name: value for name, value in module.named_parameters() if name in _wanted([name], parts)}
    known = own | persistent_buffers(module)
    # What was frozen then may train now; so may tensors that were added to a part of which nothing trained (adapters).
    trained = {part_of(name) for name in stored}
    untrained = {part_of(name) for name in checkpoint.left_out} - trained
    missing = [
        name
        for name, parameter in own.items()
        if parameter.requires_grad
        and name not in stored
        and name not in checkpoint.left_out
        and part_of(name) not in untrained
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
            f"{other[:5]} ({len(other)} in all). {_advice(missing, unknown, checkpoint.path)}"
        )


def _advice(missing: Collection[str], unknown: Collection[str], checkpoint: Path) -> str:
    """What to do about tensors that have no counterpart."""
    stage = (
        f"export it (python -m lightning_modules.export {checkpoint} OUT --language-model), name OUT/language_model as "
        f"model.language_model.init_args.path and take the other parts from it: "
        f"--model.initial_weights='{{bridge: {checkpoint}}}'"
    )
    if any(_is_adapter(name) for name in unknown):
        return f"The checkpoint has LoRA adapters, and the configured model has not: set lora as in its run, or {stage}"
    if any(_is_adapter(name) for name in missing):
        return f"The configured model has LoRA adapters, and the checkpoint was trained without: drop lora, or {stage}"
    return "Use the config that the run was trained with"


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _wanted(names: Iterable[str], parts: Collection[str] | None) -> frozenset[str]:
    """Of some names, those that are of one of the parts."""
    return frozenset(name for name in names if parts is None or part_of(name) in parts)


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
        access.set_step_counts(slot, numbers[0])
        for name, parameter in inside.items():
            for state in access.tensor_states(parameter):
                if state in states.get(name, ()):
                    access.assign(parameter, state, checkpoint[state_name(state, name)])
    if fresh:
        _log.info("the optimizer starts anew for: %s", count_by_part(fresh))
