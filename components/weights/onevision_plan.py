"""Finds which stored tensor of a LLaVA-OneVision checkpoint becomes which of ours, and refuses what does not fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.checkpoints.weight_files import WeightFiles
from components.weights.conversion import NOTHING_ALLOWED, Allowances
from components.weights.memory_ov_names import PUBLISHED_LAYERS, TIME_TABLE, memory_shape, time_table
from components.weights.name_differences import Differences, Shape, fits
from components.weights.onevision_names import (
    LAYER,
    PARTS,
    PartName,
    expected_names,
    namer_of,
    reason_unused,
    targets_of,
)
from components.weights.onevision_settings import (
    SourceSettings,
    VisionFacts,
    expected_shapes,
    read_config,
    source_settings,
)

OUTPUT_LAYER = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
_SINUSOID_ERROR = 1e-2  # bfloat16 rounds values up to 1 by 4e-3


class ImportOptions(NamedTuple):
    """Options of an import.

    Attributes:
        parts: Parts to import; by default all that the checkpoint has.
        allowed: Names that may be missing or unknown.
        memory_layers: Layers of the memory; None is 2, as published.
        vision: Settings of the vision tower that the checkpoint does not tell.
        dtype: Dtype to cast to. None does not cast.
    """

    parts: Sequence[PartName] = ()
    allowed: Allowances = NOTHING_ALLOWED
    memory_layers: int | None = None
    vision: VisionFacts = VisionFacts()
    dtype: str | None = None


class Piece(NamedTuple):
    """The stored tensor, or the row of it, that a tensor of ours is."""

    source: str
    row: int | None

    def read(self, checkpoint: Mapping[str, Tensor]) -> Tensor:
        """Read its value."""
        tensor = checkpoint[self.source]
        return tensor if self.row is None else tensor[self.row]


Located = dict[PartName, dict[str, Piece]]
"""Where the tensors of every part are stored, by our names."""


class ImportPlan(NamedTuple):
    """What an import writes."""

    parts: Located
    settings: SourceSettings
    notes: list[str]  # what is left out, for the user


def plan_import(checkpoint: WeightFiles, source: Path, options: ImportOptions) -> ImportPlan:
    """Plan an import. Reads shapes, and only those values that must be compared.

    Args:
        checkpoint: The stored tensors.
        source: Their folder or file, with ``config.json`` beside them.
        options: See ``ImportOptions``.

    Raises:
        ValueError: Names are missing or unknown and not allowed, shapes differ, two names are the same tensor, a
            requested part is absent, or it is another model (see ``source_settings``). Otherwise parts of the model
            would stay random.
    """
    shapes: dict[str, Shape] = {name: tuple(checkpoint[name].shape) for name in checkpoint}
    found, unknown = _sort_by_part(shapes)
    chosen = [part for part in PARTS if part in (options.parts or found)]
    absent = [part for part in chosen if part not in found]
    if absent or not chosen:
        raise ValueError(
            f"{source} has no tensors of {', '.join(absent or PARTS)}; its names begin like {list(checkpoint)[:3]}"
        )
    parts: Located = {part: found[part] for part in chosen}
    tower = {name: shapes[piece.source] for name, piece in parts.get("vision_encoder", {}).items()}
    settings = source_settings(read_config(source), tower, options.vision, source)
    notes = [f"left out, not requested: {part} ({len(found[part])} tensors)" for part in found if part not in parts]
    notes += _drop_unused(shapes, parts, unknown, settings)
    settings = _with_ties(settings, parts, checkpoint, notes)
    expected = {part: _expected(part, parts, shapes, settings, options.memory_layers) for part in chosen}
    differences = _differences(parts, expected, shapes, unknown)
    differences.refuse(options.allowed, _depth_hints(parts, options.memory_layers))
    _refuse_other_sinusoids(checkpoint)
    notes += [f"missing, allowed: {name}" for name in differences.missing]
    notes += [f"left out, unknown: {name}" for name in differences.unknown]
    kept = {part: {own: each for own, each in parts[part].items() if own in expected[part]} for part in chosen}
    return ImportPlan(kept, settings, notes)


def _depth_hints(parts: Located, memory_layers: int | None) -> list[str]:
    """What to do if the memory has another number of layers than expected."""
    expected = PUBLISHED_LAYERS if memory_layers is None else memory_layers
    layers = {int(number[1]) for name in parts.get("memory", {}) if (number := LAYER.search(name))}
    if len(layers) == expected or layers != set(range(len(layers))) or not layers:
        return []
    return [
        f"number of layers of the memory: {len(layers)}, expected {expected}. If it was trained with this number, add "
        f"--memory-layers {len(layers)}"
    ]


def _sort_by_part(names: Mapping[str, Shape]) -> tuple[Located, set[str]]:
    """Sort stored names by part, and find those that belong to none."""
    found: Located = {}
    unknown = set()
    for name in names:
        targets = targets_of(name)
        if not targets:
            unknown.add(name)
        for part, own, row in targets:
            pieces = found.setdefault(part, {})
            if own in pieces:
                raise ValueError(f"{name} and {pieces[own].source} are the same tensor of {part}; keep one of them")
            pieces[own] = Piece(name, row)
    return found, unknown


def _drop_unused(names: Mapping[str, Shape], parts: Located, unknown: set[str], settings: SourceSettings) -> list[str]:
    """Take out what the original never reads; returns lines that say so."""
    num_read = 0 if settings.vision is None else int(settings.vision["num_hidden_layers"])
    dropped: dict[str, list[str]] = {}
    for name in names:
        reason = reason_unused(name, num_read, settings.unused_vision_layers)
        if reason is None:
            continue
        dropped.setdefault(reason, []).append(name)
        unknown.discard(name)
        for target in targets_of(name):
            parts.get(target.part, {}).pop(target.name, None)
    return [
        f"left out, never used: {each[0]}{f' and {len(each) - 1} more' if each[1:] else ''} ({reason})"
        for reason, each in dropped.items()
    ]


def _with_ties(
    settings: SourceSettings, parts: Located, checkpoint: Mapping[str, Tensor], notes: list[str]
) -> SourceSettings:
    """Correct a configuration that ties the output layer to the embeddings, where both are stored and differ."""
    language = settings.language
    pieces = parts.get("language_model", {})
    if language is None or not language.get("tie_word_embeddings") or not {OUTPUT_LAYER, EMBEDDINGS} <= pieces.keys():
        return settings
    if torch.equal(pieces[OUTPUT_LAYER].read(checkpoint), pieces[EMBEDDINGS].read(checkpoint)):
        return settings
    notes.append("the output layer is stored and differs from the embeddings: tie_word_embeddings is set to false")
    return settings._replace(language=language | {"tie_word_embeddings": False})


def _expected(
    part: PartName, parts: Located, shapes: Mapping[str, Shape], settings: SourceSettings, memory_layers: int | None
) -> dict[str, Shape]:
    """Names and shapes of all tensors of a part."""
    if part in ("vision_encoder", "language_model"):
        own = settings.vision if part == "vision_encoder" else settings.language
        if own is None:
            raise ValueError(f"{part}: its sizes are in config.json, and there is none beside the weights; add it")
        found = expected_shapes(own, is_language_model=part == "language_model")
        if own.get("tie_word_embeddings") and OUTPUT_LAYER not in parts[part]:
            found.pop(OUTPUT_LAYER, None)
        return found
    width = _language_width(parts, shapes, settings)
    patch_width = None if settings.vision is None else int(settings.vision["hidden_size"])
    names = expected_names(part, memory_layers)
    if part == "projector":
        inputs = {"layers.0.weight": patch_width}
        return {name: (width, inputs.get(name, width)) if name.endswith("weight") else (width,) for name in names}
    if part == "memory":
        return {name: memory_shape(name, width) for name in names}
    return {name: (width,) for name in names}


def _language_width(parts: Located, shapes: Mapping[str, Shape], settings: SourceSettings) -> int | None:
    """Width of the language model, which other parts have too."""
    if settings.language is not None:
        return int(settings.language["hidden_size"])
    for part, name, axis in (
        ("newline", "vector", 0),
        ("projector", "layers.0.weight", 0),
        ("memory", "initial_memory", 2),
    ):
        piece = {str(key): each for key, each in parts.items()}.get(part, {}).get(name)
        if piece is not None and len(shapes[piece.source]) > axis:
            return shapes[piece.source][axis]
    return None


def _differences(
    parts: Located, expected: Mapping[PartName, Mapping[str, Shape]], shapes: Mapping[str, Shape], unknown: set[str]
) -> Differences:
    named = namer_of(shapes)
    missing: dict[str, Shape] = {}
    strangers = {name: shapes[name] for name in sorted(unknown)}
    other: dict[str, tuple[Shape, Shape]] = {}
    for part, pieces in parts.items():
        missing |= {named(part, own): want for own, want in expected[part].items() if own not in pieces}
        for own, piece in pieces.items():
            stored = shapes[piece.source] if piece.row is None else shapes[piece.source][1:]
            if own not in expected[part]:
                strangers[piece.source] = shapes[piece.source]
            elif not fits(stored, expected[part][own]):
                other[piece.source] = (stored, expected[part][own])
    return Differences(missing, strangers, other)


def _refuse_other_sinusoids(checkpoint: WeightFiles) -> None:
    """Check that the stored times of frames are the fixed sinusoids: a learned table would be lost."""
    for name in (TIME_TABLE, f"model.{TIME_TABLE}"):
        if name in checkpoint:
            stored = checkpoint[name].float()
            own = time_table(stored.shape[-1])
            if stored.shape != own.shape or (stored - own).abs().max() > _SINUSOID_ERROR:
                raise ValueError(
                    f"{name} {list(stored.shape)} is not the table of {len(own)} fixed sinusoids: the memory was "
                    "trained with other times of frames, which our readers do not have"
                )
