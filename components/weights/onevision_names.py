"""Tensor names of LLaVA-OneVision and the Memory-Augmented VLM, in every layout of files: to ours, and back.

A checkpoint has one of two layouts, transformers' or the authors'. Transformers has changed its own names over time;
all of its spellings are read.

Source: transformers 5.23 (``conversion_mapping.py``); the code of LLaVA-NeXT; that of the Memory-Augmented VLM, commit
437dbe3.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, get_args

from components.weights.memory_ov_names import (
    PUBLISHED_LAYERS,
    TIME_TABLE,
    TYPE_EMBEDDING,
    TYPE_ROWS,
    TYPE_TABLE,
    memory_names,
)

PartName = Literal["vision_encoder", "projector", "newline", "memory", "frames", "language_model"]
PARTS: tuple[PartName, ...] = get_args(PartName)
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
PROJECTOR_LAYERS = (0, 2)  # positions of the linear layers; position 1 is the activation

_VISION = re.compile(r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(?P<name>.+)")
_TRANSFORMERS_PROJECTOR = re.compile(r"(?:model\.)?multi_modal_projector\.linear_(?P<layer>[12])\.(?P<name>.+)")
_ORIGINAL_PROJECTOR = re.compile(r"(?:model\.)?mm_projector\.(?P<name>.+)")
_LANGUAGE = (
    re.compile(r"language_model\.(?P<name>(?:model|lm_head)\..+)"),  # files that earlier transformers wrote
    re.compile(r"model\.(?P<inner>language_model\..+)"),  # in transformers' memory today
    re.compile(r"(?P<name>(?:model\.(?:embed_tokens|layers|norm)|lm_head)\..+)"),  # the authors'
)
_UNUSED = (
    (re.compile(r"rotary_emb\.inv_freq$"), "computed"),
    (re.compile(r"embeddings\.position_ids$"), "computed"),
    (re.compile(r"(?:^|\.)vision_tower\.(?:.+\.)?head\."), "the pooled output is never read"),
)
_VISION_PREFIX = "model.vision_tower.vision_tower.vision_model."


class Target(NamedTuple):
    """The tensor of ours that a stored tensor becomes."""

    part: PartName
    name: str
    row: int | None = None  # row of the stored tensor; None: all of it


def targets_of(name: str) -> list[Target]:
    """What a stored tensor becomes: usually one tensor, two for the table of types, none for an unknown name."""
    if match := _VISION.fullmatch(name):
        return [Target("vision_encoder", match["name"])]
    if match := _TRANSFORMERS_PROJECTOR.fullmatch(name):
        return [Target("projector", f"layers.{PROJECTOR_LAYERS[int(match['layer']) - 1]}.{match['name']}")]
    if match := _ORIGINAL_PROJECTOR.fullmatch(name):
        return [Target("projector", f"layers.{match['name']}")]
    plain = name.removeprefix("model.")
    if plain == "image_newline":
        return [Target("newline", "vector")]
    if plain == TYPE_TABLE:
        return [Target(_reader(part), TYPE_EMBEDDING, row) for part, row in TYPE_ROWS.items()]
    number = LAYER.search(plain)
    ours = memory_names(1 + int(number[1]) if number else 0).get(plain)
    if ours is not None:
        return [Target("memory", ours)]
    for pattern in _LANGUAGE:
        if match := pattern.fullmatch(name):
            inner = match.groupdict().get("inner")
            own = match["name"] if inner is None else f"model.{inner.removeprefix('language_model.')}"
            return [Target("language_model", own)]
    return []


def _reader(part: str) -> PartName:
    return next(each for each in PARTS if each == part)


def reason_unused(name: str, num_vision_layers: int, unused_vision_layers: Collection[int]) -> str | None:
    """Why no model reads a stored tensor; None if one may.

    Args:
        name: Its name in the checkpoint.
        num_vision_layers: Layers of the vision tower that are read.
        unused_vision_layers: Layers after them that may be stored too.
    """
    if name.removeprefix("model.") == TIME_TABLE:
        return "sinusoids, computed"
    for pattern, reason in _UNUSED:
        if pattern.search(name):
            return reason
    number = LAYER.search(name)
    if number and _VISION.fullmatch(name) and int(number[1]) in unused_vision_layers:
        return f"only the first {num_vision_layers} layers of the vision tower are read"
    return None


def expected_names(part: PartName, memory_layers: int | None) -> list[str]:
    """Our names of all tensors of a part other than vision encoder and language model, whose configurations tell.

    Args:
        part: The part.
        memory_layers: Layers of the memory; None is the published number.
    """
    if part == "projector":
        return [f"layers.{layer}.{kind}" for layer in PROJECTOR_LAYERS for kind in ("weight", "bias")]
    if part == "newline":
        return ["vector"]
    if part == "frames":
        return [TYPE_EMBEDDING]
    return [*memory_names(PUBLISHED_LAYERS if memory_layers is None else memory_layers).values(), TYPE_EMBEDDING]


def original_name(part: PartName, name: str) -> str | None:
    """The authors' name of a tensor of ours; None if their model has no such tensor."""
    if part == "vision_encoder":
        return _VISION_PREFIX + name
    if part == "projector":
        return f"model.mm_projector.{name.removeprefix('layers.')}" if name.startswith("layers.") else None
    if part == "newline":
        return "model.image_newline" if name == "vector" else None
    if part == "language_model":
        return name
    if name == TYPE_EMBEDDING:
        return f"model.{TYPE_TABLE}"
    if part == "frames":
        return None
    number = LAYER.search(name)
    theirs = {ours: theirs for theirs, ours in memory_names(1 + int(number[1]) if number else 0).items()}
    return f"model.{theirs[name]}" if name in theirs else None


def transformers_name(part: PartName, name: str) -> str:
    """Transformers' name of a tensor of ours, as in its published files; the authors' where it has no such part."""
    if part == "vision_encoder":
        return f"vision_tower.vision_model.{name}"
    if part == "projector":
        _, position, kind = name.split(".")
        return f"multi_modal_projector.linear_{1 + PROJECTOR_LAYERS.index(int(position))}.{kind}"
    if part == "newline":
        return "image_newline"
    if part == "language_model":
        return f"language_model.{name}"
    return original_name(part, name) or name


def namer_of(names: Mapping[str, object]) -> Callable[[PartName, str], str]:
    """The names of tensors in the layout that a checkpoint has, for messages."""
    is_transformers = any(".language_model." in f".{name}" or "multi_modal_projector" in name for name in names)
    return transformers_name if is_transformers else lambda part, name: original_name(part, name) or name
