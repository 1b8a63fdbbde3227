"""Converts original VideoLLaMB checkpoints to the state dicts of our parts, and back. Nothing is skipped silently."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from components.weights.layer_count import layer_count_of, layer_count_problems
from components.weights.lora import is_adapter, merge_adapters
from components.weights.original_names import (
    PartName,
    PartNames,
    bridge_names,
    image_encoder_names,
    llama_names,
    num_layers_of,
    unused_bridge_names,
    video_encoder_names,
)

_WRAPPED = r"(?:base_model\.model\.)?"  # prefix in checkpoints of a model wrapped by peft
_POSITION_IDS = re.compile(r"embeddings\.position_ids$")
_ENCODER_LAYERS = {1024: 24}  # LanguageBind's ViT-L/14
_LLAMA_LAYERS = {4096: 32, 5120: 40}  # 7B and 13B

PARTS: Mapping[PartName, PartNames] = {
    "bridge": PartNames(
        prefix="model.mm_projector.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:(?:model\.)?mm_projector\.|(?=projector\.|retrieval\.))"),
        names=bridge_names,
        width_from="projector.read_memory_emb",
        published_layers={1024: 1},
        unused=unused_bridge_names,
    ),
    "video_encoder": PartNames(
        prefix="model.video_tower.video_tower.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:model\.)?video_tower\.video_tower\."),
        names=video_encoder_names,
        width_from="embeddings.class_embedding",
        published_layers=_ENCODER_LAYERS,
        ignored=_POSITION_IDS,
    ),
    "image_encoder": PartNames(
        prefix="model.image_tower.image_tower.",
        accepted_prefix=re.compile(_WRAPPED + r"(?:model\.)?image_tower\.image_tower\."),
        names=image_encoder_names,
        width_from="embeddings.class_embedding",
        published_layers=_ENCODER_LAYERS,
        ignored=_POSITION_IDS,
        adapters=True,
    ),
    "language_model": PartNames(
        prefix="",
        # `language_model.` is the prefix in transformers' own LLaVA checkpoints.
        accepted_prefix=re.compile(
            _WRAPPED + r"(?:language_model\.)?(?=model\.(?:layers|embed_tokens|norm)\.|lm_head\.)"
        ),
        names=llama_names,
        width_from="model.norm.weight",
        published_layers=_LLAMA_LAYERS,
        ignored=re.compile(r"rotary_emb\.inv_freq$"),
    ),
}
"""The parts of the original model."""


class Allowances(NamedTuple):
    """Names of tensors that may be missing or unknown; ``*`` matches any text."""

    missing: Sequence[str] = ()
    unknown: Sequence[str] = ()


NOTHING_ALLOWED = Allowances()
NO_DEPTHS: Mapping[PartName, int] = MappingProxyType({})


class ImportedPart(NamedTuple):
    """One part under our names."""

    tensors: dict[str, Tensor]
    num_layers: int  # expected number; tensors of some may be missing, where that is allowed
    dropped: list[str]  # original names, with prefix, of tensors that are never used
    missing: list[str]  # original names that the checkpoint does not have; all are allowed


class Import(NamedTuple):
    """The result of an import."""

    parts: dict[PartName, ImportedPart]
    not_wanted: dict[PartName, list[str]]  # names of tensors of parts that were not requested
    unknown: list[str]  # names that belong to no part; all are allowed


def import_checkpoint(
    checkpoint: Mapping[str, Tensor],
    wanted: Sequence[PartName] = (),
    allowed: Allowances = NOTHING_ALLOWED,
    lora_alpha: float = 16.0,
    num_layers: Mapping[PartName, int] = NO_DEPTHS,
) -> Import:
    """Rename the tensors of an original checkpoint.

    Args:
        checkpoint: Tensors by original name: a complete model, some of its parts, or ``mm_projector`` alone.
        wanted: Parts to import; by default all that the checkpoint has.
        allowed: Names that may be missing or unknown.
        lora_alpha: ``lora_alpha`` of the image encoder's adapters, if it has any.
        num_layers: Number of layers of the parts. For other parts it is that of the published model of the same width.
            It is not taken from the tensors, because the last layers may be missing.

    Returns:
        The parts under our names.

    Raises:
        ValueError: Names are unknown or missing and not allowed, two names belong to the same tensor, a requested part
            is absent, its number of layers is unknown, or a part has adapters that cannot be merged here. Otherwise the
            model would run with randomly initialised weights.
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
    hints: list[str] = []
    parts: dict[PartName, ImportedPart] = {}
    for part in chosen:
        inner = _without_adapters(part, {name: checkpoint[full] for name, full in by_part[part].items()}, lora_alpha)
        layers = layer_count_of(part, PARTS[part], inner, num_layers.get(part))
        parts[part], part_unknown = _import_part(PARTS[part], inner, layers.num_layers)
        missing += parts[part].missing
        unknown += part_unknown
        hints += layer_count_problems(part, PARTS[part], inner.keys(), layers)
    refuse_differences(missing, unknown, allowed, hints)
    return Import(parts, not_wanted, unknown)


def export_part(
    part: PartName,
    tensors: Mapping[str, Tensor],
    allowed: Allowances = NOTHING_ALLOWED,
    num_layers: int | None = None,
) -> dict[str, Tensor]:
    """Rename a part's state dict to the original's names, including the prefix.

    Tensors that the original stores but never uses are written as zeros.

    Args:
        part: The part.
        tensors: Its state dict under our names.
        allowed: Our names that may be missing or unknown.
        num_layers: Expected number of layers; None if no layer is missing in ``tensors``.

    Raises:
        ValueError: Names are unknown or missing and not allowed.
    """
    num_layers = num_layers_of(tensors) if num_layers is None else num_layers
    names = PARTS[part].names(num_layers)
    theirs = {ours: original for original, ours in names.items()}
    unknown = sorted(tensors.keys() - theirs.keys())
    other = 2 * len(unknown) > len(tensors)
    hints = [f"most of this {part} has no place in the published one: another class was trained"] if other else []
    refuse_differences(sorted(theirs.keys() - tensors.keys()), unknown, allowed, hints)
    exported = {theirs[name]: tensor for name, tensor in tensors.items() if name in theirs}
    for name, twin in PARTS[part].unused(num_layers).items():
        if twin in exported:
            exported[name] = torch.zeros_like(exported[twin])
    return {PARTS[part].prefix + name: tensor for name, tensor in exported.items()}


def _sort_by_part(checkpoint: Mapping[str, Tensor]) -> tuple[dict[PartName, dict[str, str]], list[str]]:
    """Sort names by part: ``{part: {name without prefix: full name}}``, and the names that belong to no part."""
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


def _without_adapters(part: PartName, tensors: dict[str, Tensor], lora_alpha: float) -> dict[str, Tensor]:
    if PARTS[part].adapters:
        return merge_adapters(tensors, lora_alpha)
    adapters = [name for name in tensors if is_adapter(name)]
    if adapters:
        raise ValueError(
            f"{part}: {len(adapters)} tensors are LoRA adapters, such as {PARTS[part].prefix}{adapters[0]}. The "
            "original has adapters in its image encoder alone, and --lora-alpha is theirs. Merge these with the tool "
            "that they were trained with (peft: merge_and_unload), save the result and import that"
        )
    return tensors


def _import_part(rules: PartNames, tensors: Mapping[str, Tensor], num_layers: int) -> tuple[ImportedPart, list[str]]:
    names, unused = rules.names(num_layers), rules.unused(num_layers)
    dropped = [name for name in tensors if name in unused or rules.ignored.search(name)]
    unknown = [rules.prefix + name for name in tensors.keys() - names.keys() - set(dropped)]
    missing = [rules.prefix + name for name in names.keys() - tensors.keys()]
    renamed = {ours: tensors[name] for name, ours in names.items() if name in tensors}
    dropped = [rules.prefix + name for name in dropped]
    return ImportedPart(renamed, num_layers, dropped, sorted(missing)), sorted(unknown)


def refuse_differences(
    missing: Sequence[str], unknown: Sequence[str], allowed: Allowances, hints: Sequence[str] = ()
) -> None:
    """Raise if names are missing or unknown and not allowed.

    Args:
        missing: Names that are expected but not there.
        unknown: Names that are there but not expected.
        allowed: Names that may be missing or unknown.
        hints: Possible reasons, for the message.

    Raises:
        ValueError: Names are not allowed; the message lists all of them.
    """
    lacking = [name for name in missing if not is_named(name, allowed.missing)]
    unclear = [name for name in unknown if not is_named(name, allowed.unknown)]
    if not lacking and not unclear:
        return
    lines = [*hints, *(f"missing tensor {name}" for name in lacking), *(f"unknown tensor {name}" for name in unclear)]
    raise ValueError(
        f"{len(lacking)} missing and {len(unclear)} unknown tensors. If you do not need them, allow them by name "
        "(--allow-missing, --allow-unknown; * matches any text):\n  " + "\n  ".join(lines)
    )


def is_named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of some patterns, in which ``*`` matches any text."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
