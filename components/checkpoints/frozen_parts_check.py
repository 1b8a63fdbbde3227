"""Checks that frozen weights and the tokenizer are those that a checkpoint was trained with.

A checkpoint does not store them, only fingerprints of them. Other ones would give wrong results without any error.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.checkpoints.parameter_access import ParameterAccess
from components.checkpoints.tokenizer_fingerprint import tokenizer_fingerprint
from components.checkpoints.weight_fingerprint import (
    MEASURE_LENGTH,
    WeightFingerprint,
    fingerprint_of,
    is_same,
    measure,
    plain_name,
)

SumOverRanks = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all ranks; every rank must call it."""

_TOKENIZER_FACTS = {"vocabulary": "vocabulary", "special_ids": "special tokens", "chat_template": "chat template"}


class WeightsOfRun(Protocol):
    """What these checks need from a checkpoint or an export."""

    path: Path
    left_out: frozenset[str]
    fingerprints: dict[str, WeightFingerprint]
    tokenizer: dict[str, str] | None

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the stored parameters and buffers."""


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to, such as ``model.bridge``."""
    return ".".join(name.split(".")[:2])


def count_by_part(names: Iterable[str]) -> str:
    """Number of tensors in each part, as text for a message."""
    return ", ".join(f"{part} ({count} tensors)" for part, count in Counter(map(part_of, names)).items())


def take_fingerprints(
    parameters: Mapping[str, Tensor], access: ParameterAccess, sum_over_ranks: SumOverRanks
) -> dict[str, WeightFingerprint]:
    """Compute fingerprints of parameters; every rank must call it with the same names. Ranks communicate once."""
    measured = torch.zeros(len(parameters), MEASURE_LENGTH, dtype=torch.float64)
    for row, parameter in enumerate(parameters.values()):
        share = access.share(parameter)
        measured[row] = measure(share.values, share.start, access.shape(parameter).numel())
    if parameters:
        measured = sum_over_ranks(measured)
    return {
        name: fingerprint_of(row, parameter.dtype, access.shape(parameter))
        for row, (name, parameter) in zip(measured, parameters.items(), strict=True)
    }


def refuse_other_frozen_weights(
    module: nn.Module,
    access: ParameterAccess,
    checkpoint: WeightsOfRun,
    sum_over_ranks: SumOverRanks,
    parts: Collection[str] | None = None,
) -> dict[str, WeightFingerprint]:
    """Check that the weights that a checkpoint does not store are the same as in its run.

    Args:
        module: The model, with the weights that it was built with.
        access: Access to its parameters.
        checkpoint: The checkpoint. One without fingerprints (an older version wrote it) is not checked.
        sum_over_ranks: See ``SumOverRanks``.
        parts: Parts to check, such as ``model.bridge``; all by default.

    Returns:
        Fingerprints of the parameters that were compared.

    Raises:
        ValueError: Weights differ, are missing, or are additional.
    """
    stored_prints = {
        plain_name(name): fingerprint
        for name, fingerprint in checkpoint.fingerprints.items()
        if parts is None or part_of(name) in parts
    }
    if not stored_prints:
        return {}
    own = {name: parameter for name, parameter in module.named_parameters() if plain_name(name) in stored_prints}
    found = take_fingerprints(own, access, sum_over_ranks)
    differing = [name for name, own_print in found.items() if not is_same(stored_prints[plain_name(name)], own_print)]
    missing = sorted(stored_prints.keys() - {plain_name(name) for name in found})
    stored = {plain_name(name) for name in checkpoint.parameters}
    more = [
        name
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad
        and part_of(name) in set(map(part_of, stored_prints))
        and plain_name(name) not in stored_prints
        and plain_name(name) not in stored
    ]
    if differing or missing or more:
        raise ValueError(_message(checkpoint, module, differing, missing, more))
    return found


def refuse_other_tokenizer(
    checkpoint: WeightsOfRun, tokenizers: Mapping[str, Any], facts: Collection[str] = tuple(_TOKENIZER_FACTS)
) -> None:
    """Check that a tokenizer is the one that a checkpoint was trained with.

    Args:
        checkpoint: The checkpoint. One without a fingerprint (an older version wrote it) is not checked.
        tokenizers: The tokenizers by the setting that names them, such as ``data.tokenizer``.
        facts: What to compare: names of fields of ``TokenizerFingerprint``.

    Raises:
        ValueError: It differs: the same text would have other ids.
    """
    stored = checkpoint.tokenizer or {}
    for setting, tokenizer in tokenizers.items() if stored else ():
        now = tokenizer_fingerprint(tokenizer)._asdict()
        differing = [_TOKENIZER_FACTS[fact] for fact in facts if now[fact] != stored.get(fact, now[fact])]
        if differing:
            raise ValueError(
                f"{setting}: the tokenizer in {tokenizer.name_or_path!r} is not the one that {checkpoint.path} was "
                f"trained with: another {' and '.join(differing)}. The same text would be other tokens. Name the "
                "folder that the run was trained with, and put its tokenizer files and chat_template.jinja back"
            )


def language_tokenizer(module: Any) -> Any | None:
    """The tokenizer of a module's language model, where it has one."""
    return getattr(getattr(getattr(module, "model", None), "language_model", None), "tokenizer", None)


def _message(
    checkpoint: WeightsOfRun, module: nn.Module, differing: list[str], missing: list[str], more: list[str]
) -> str:
    kinds = {"with other values or shapes": differing, "that it does not have any more": missing, "more": more}
    found = [f"{count_by_part(names)} {kind}, such as {names[0]}" for kind, names in kinds.items() if names]
    parts = sorted({part_of(name) for names in kinds.values() for name in names})
    sources = [f"{part} is now from {source!r}" for part in parts if (source := _source_of(module.get_submodule(part)))]
    return (
        f"the frozen weights are not those that {checkpoint.path} was trained with: {'; '.join(found)}. "
        f"{'. '.join([*sources, ''])}A checkpoint does not store weights that do not train. Name the folder that the "
        "run was trained with, with the files it had then; or, to start a new run with some of its parts alone, name "
        f"them: --model.initial_weights='{{bridge: {checkpoint.path}}}'"
    )


def _source_of(part: Any) -> str | None:
    """Folder or hub name that a part was loaded from; None where it does not have one."""
    tokenizer = getattr(part, "tokenizer", None)
    source: str | None = getattr(part, "path", None) or getattr(tokenizer, "name_or_path", None)
    return source
