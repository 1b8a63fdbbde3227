"""Turns original VideoLLaMB checkpoints into our parts' state dicts and back. Strict: nothing is skipped in silence."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from components.weights.lora import merge_adapters
from components.weights.original_names import (
    PartNames,
    bridge_names,
    image_encoder_names,
    llama_names,
    num_layers_of,
    unused_bridge_names,
    video_encoder_names,
)

PartName = Literal["bridge", "video_encoder", "image_encoder", "language_model"]

_WRAPPED = r"(?:base_model\.model\.)?"  # a checkpoint saved from inside peft
_POSITION_IDS = re.compile(r"embeddings\.position_ids$")

PARTS: Mapping[PartName, PartNames] = {
    "bridge": PartNames(
        prefix="model.mm_projector.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:(?:model\.)?mm_projector\.|(?=projector\.|retrieval\.))"),
        names=bridge_names,
        unused=unused_bridge_names,
    ),
    "video_encoder": PartNames(
        prefix="model.video_tower.video_tower.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:model\.)?video_tower\.video_tower\."),
        names=video_encoder_names,
        ignored=_POSITION_IDS,
    ),
    "image_encoder": PartNames(
        prefix="model.image_tower.image_tower.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:model\.)?image_tower\.image_tower\."),
        names=image_encoder_names,
        ignored=_POSITION_IDS,
    ),
    "language_model": PartNames(
        prefix="",
        # `language_model.` is how transformers' own LLaVA checkpoints begin.
        accepted_prefix=re.compile(
            _WRAPPED + r"(?:language_model\.)?(?=model\.(?:layers|embed_tokens|norm)\.|lm_head\.)"
        ),
        names=llama_names,
        ignored=re.compile(r"rotary_emb\.inv_freq$"),
    ),
}
"""The parts of the original model."""


class Allowances(NamedTuple):
    """Names, with ``*`` for any text, that a conversion may do without or leave behind."""

    missing: Sequence[str] = ()
    unknown: Sequence[str] = ()


NOTHING_ALLOWED = Allowances()


class ImportedPart(NamedTuple):
    """One part under our names."""

    tensors: dict[str, Tensor]
    dropped: list[str]  # original names, with prefix, that nothing reads
    missing: list[str]  # original names that the checkpoint lacks, all of them allowed


class Import(NamedTuple):
    """What an original checkpoint holds."""

    parts: dict[PartName, ImportedPart]
    not_wanted: dict[PartName, list[str]]  # names of the parts that were not asked for
    unknown: list[str]  # names of no part, all of them allowed


def import_checkpoint(
    checkpoint: Mapping[str, Tensor],
    wanted: Sequence[PartName] = (),
    allowed: Allowances = NOTHING_ALLOWED,
    lora_alpha: float = 16.0,
) -> Import:
    """Rename the tensors of an original checkpoint.

    Args:
        checkpoint: Tensors by original name: a whole model, some of its parts, or a lone ``mm_projector``.
        wanted: Parts to import; all that the checkpoint has by default.
        allowed: Names that may be missing or unknown.
        lora_alpha: ``lora_alpha`` of the image encoder's adapters, should it have any.

    Returns:
        The parts under our names.

    Raises:
        ValueError: Names are unknown or missing and not allowed, two names mean the same tensor, or a wanted part is
            absent. A model with a part left as it was initialised would run and be wrong.
    """
    by_part, unknown = _sort_by_part(checkpoint)
    chosen = wanted or tuple(by_part)
    absent = [part for part in chosen if part not in by_part]
    if absent or not chosen:
        raise ValueError(
            f"the checkpoint has no tensors of {absent or list(PARTS)}; its names begin like "
            f"{list(checkpoint)[:3]}, expected prefixes are {[PARTS[part].prefix for part in absent or PARTS]}"
        )
    not_wanted = {part: list(names.values()) for part, names in by_part.items() if part not in chosen}
    missing: list[str] = []
    parts: dict[PartName, ImportedPart] = {}
    for part in chosen:
        inner = {name: checkpoint[full] for name, full in by_part[part].items()}
        parts[part], part_unknown = _import_part(PARTS[part], inner, lora_alpha)
        missing += parts[part].missing
        unknown += part_unknown
    refuse_differences(missing, unknown, allowed)
    return Import(parts, not_wanted, unknown)


def export_part(
    part: PartName, tensors: Mapping[str, Tensor], allowed: Allowances = NOTHING_ALLOWED
) -> dict[str, Tensor]:
    """Give a part's state dict the original's names, prefix included.

    Tensors that the original stores but never reads are written as zeros.

    Args:
        part: The part.
        tensors: Its state dict under our names.
        allowed: Our names that may be missing or unknown.

    Raises:
        ValueError: Names are unknown or missing and not allowed.
    """
    names = PARTS[part].names(num_layers_of(tensors))
    theirs = {ours: original for original, ours in names.items()}
    refuse_differences(sorted(theirs.keys() - tensors.keys()), sorted(tensors.keys() - theirs.keys()), allowed)
    exported = {theirs[name]: tensor for name, tensor in tensors.items() if name in theirs}
    for name, twin in PARTS[part].unused(num_layers_of(tensors)).items():
        if twin in exported:
            exported[name] = torch.zeros_like(exported[twin])
    return {PARTS[part].prefix + name: tensor for name, tensor in exported.items()}


def _sort_by_part(checkpoint: Mapping[str, Tensor]) -> tuple[dict[PartName, dict[str, str]], list[str]]:
    """Find the part of every name: ``{part: {name without prefix: full name}}``, and the names of no part."""
    by_part: dict[PartName, dict[str, str]] = {}
    unknown = []
    for full in checkpoint:
        for part, rules in PARTS.items():
            if match := rules.accepted_prefix.match(full):
                names = by_part.setdefault(part, {})
                inner = full[match.end() :]
                if inner in names:
                    raise ValueError(f"{full} and {names[inner]} are the same tensor of the {part}; keep one of them")
                names[inner] = full
                break
        else:
            unknown.append(full)
    return by_part, unknown


def _import_part(rules: PartNames, tensors: Mapping[str, Tensor], lora_alpha: float) -> tuple[ImportedPart, list[str]]:
    tensors = merge_adapters(tensors, lora_alpha)
    num_layers = num_layers_of(tensors)
    names, unused = rules.names(num_layers), rules.unused(num_layers)
    dropped = [name for name in tensors if name in unused or rules.ignored.search(name)]
    unknown = [rules.prefix + name for name in tensors.keys() - names.keys() - set(dropped)]
    missing = [rules.prefix + name for name in names.keys() - tensors.keys()]
    renamed = {ours: tensors[name] for name, ours in names.items() if name in tensors}
    return ImportedPart(renamed, [rules.prefix + name for name in dropped], sorted(missing)), sorted(unknown)


def refuse_differences(missing: Sequence[str], unknown: Sequence[str], allowed: Allowances) -> None:
    """Refuse names that nobody allowed.

    Args:
        missing: Names that should be there and are not.
        unknown: Names that are there and have no place.
        allowed: Names that may be either.

    Raises:
        ValueError: A name is not allowed; all of them are listed.
    """
    lacking = [name for name in missing if not _is_named(name, allowed.missing)]
    unclear = [name for name in unknown if not _is_named(name, allowed.unknown)]
    if not lacking and not unclear:
        return
    lines = [f"missing tensor {name}" for name in lacking] + [f"unknown tensor {name}" for name in unclear]
    raise ValueError(
        f"{len(lacking)} missing and {len(unclear)} unknown tensors. Allow those that you can do without by name "
        "(--allow-missing, --allow-unknown; * stands for any text):\n  " + "\n  ".join(lines)
    )


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
