"""Loads a checkpoint into a model and its optimizer. Tensors are matched by name; each rank reads what it needs."""

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
    """What restoring weights needs from a checkpoint or an export."""

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
    """Load a checkpoint's parameters and buffers into a model.

    Parameters that are not stored, because they did not train, keep the values that the model was built with.

    Args:
        module: The model.
        access: Access to its parameters.
        checkpoint: The checkpoint, already checked by ``refuse_misfit``.
        averaged: Load running averages where they are stored.
        parts: Parts to load, such as ``model.bridge``; all by default.

    Raises:
        ValueError: ``averaged`` is set, but the checkpoint has no averages.
    """
    if averaged and not checkpoint.has_averages:
        raise ValueError(f"{checkpoint.path} has no running averages: the run did not compute any")
    stored = _wanted(checkpoint.parameters, parts)
    own = _wanted(dict(module.named_parameters()), parts)
    for name, parameter in module.named_parameters():
        if name in stored:
            access.assign(parameter, None, checkpoint.weight(name, averaged=averaged))
    for name, buffer in persistent_buffers(module).items():
        if name in stored:
            buffer.copy_(checkpoint.weight(name))
    new = [name for name, parameter in module.named_parameters() if parameter.requires_grad and name in own - stored]
    if new:
        _log.info("not stored in %s, so they start from their initial values: %s", checkpoint.path, count_by_part(new))


def refuse_misfit(
    module: nn.Module, access: ParameterAccess, checkpoint: SavedWeights, parts: Collection[str] | None = None
) -> None:
    """Check that the names and shapes of a checkpoint's tensors match the model.

    Args:
        module: The model.
        access: Access to its parameters.
        checkpoint: The checkpoint.
        parts: Parts to check; all by default.

    Raises:
        ValueError: Trainable tensors are missing though their part was trained, or tensors are unknown to the model or
            have another shape. The configured parts are then not the trained ones, and the model would be partly
            random.
    """
    stored = _wanted(checkpoint.parameters, parts)
    own = {name: value for name, value in module.named_parameters() if name in _wanted([name], parts)}
    known = own | persistent_buffers(module)
    # Parameters that were frozen may train now. So may tensors that are new (adapters) in a part that was all frozen.
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
    """What the user can do about missing or unknown tensors."""
    stage = (
        f"export it (python -m lightning_modules.export {checkpoint} OUT --merge-adapters), name OUT/language_model as "
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
    """The names that belong to one of the parts."""
    return frozenset(name for name in names if parts is None or part_of(name) in parts)


@torch.no_grad()
def restore_optimizer(
    module: nn.Module, access: ParameterAccess, checkpoint: RunCheckpoint, described: Mapping[str, Any]
) -> None:
    """Load an optimizer's states and learning rates; its other settings stay those of the config.

    Learning rates are matched by the name of the group, states by the name of the parameter, because groups may have
    changed. Parameters that did not train before start without a state.

    Args:
        module: The model with restored weights.
        access: Access to the optimizer's states.
        checkpoint: The checkpoint.
        described: The stored result of ``describe_optimizer``.
    """
    assert access.optimizer is not None
    rates = {group["name"]: group["lr"] for group in described["groups"]}
    for name, group in named_groups(access.optimizer):
        group["lr"] = rates.get(name, group["lr"])  # a scheduler only sets it after the next step
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    states = checkpoint.optimizer_states()
    fresh = []
    for slot in access.slots():
        inside = {names[id(parameter)]: parameter for parameter in slot.parameters}
        counts = [described["numbers"].get(name) for name in inside]
        if counts[0] is None or any(each != counts[0] for each in counts):
            # All parameters of a slot share one step count. If only some had moments, Adam's bias correction would
            # be wrong for the others, and their first updates several times too large.
            fresh += [name for name, parameter in inside.items() if parameter.requires_grad]
            continue
        access.make_state(slot)
        access.set_step_counts(slot, counts[0])
        for name, parameter in inside.items():
            for state in access.tensor_states(parameter):
                if state in states.get(name, ()):
                    access.assign(parameter, state, checkpoint[state_name(state, name)])
    if fresh:
        _log.info("the optimizer starts without a stored state for: %s", count_by_part(fresh))
