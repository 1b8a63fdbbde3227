"""Compares the complete visual path, from pixels to what the language model reads: ``assembly.safetensors``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.comparison import CaseResult, Check, exact_check, run_case
from benchmarks.parity.memory_ov.frame_choice import CAPACITY, FINE_FRAMES, SEGMENT_FRAMES
from benchmarks.parity.memory_ov.original_weights import load_memory, memory_of_shapes
from benchmarks.parity.memory_ov.stub_parts import PixelsAsPatches, RecordingLanguageModel
from benchmarks.parity.memory_ov.tolerance import close_check, relative_check, with_explicit_attention
from components.interfaces import IGNORED_LABEL
from components.model import VideoLanguageModel
from components.newline import Newline
from components.pooling.patch_pooling import GridPooling
from components.positions import patch_grid_side
from components.projectors.mlp import MlpProjector
from components.readers.fine_frames import FineFrames
from components.segmenters.fixed_length import FixedLength
from components.selection.segment_multiples import SegmentMultiples
from components.streams import StreamReader
from components.weights.memory_ov_names import TYPE_EMBEDDING, TYPE_ROWS, TYPE_TABLE
from datamodules.batch import Batch

_WORDS = ("before memory", "before frames")  # the recordings have the ids of the words, not the words
_PROMPT = f"{_WORDS[0]}<memory><newline>{_WORDS[1]}<frames><newline>"
_MOST_FRAMES_IN_BATCH = 128  # attention in explicit steps stores its weights
_CASE = re.compile(r"n(\d+)\.(full|dropped)")


class Recording(NamedTuple):
    """What is stored of the complete visual path."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def state(self) -> dict[str, Tensor]:
        """The weights under their original names."""
        prefix = "state."
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}

    def pixels(self, num_frames: int) -> Tensor:
        """Pixels of a video, ``[T, 3, H, W]`` float32."""
        stored = self.tensors["in.pixels_u8"]
        if num_frames <= len(stored):
            return stored[:num_frames].float() / 127.5 - 1
        return _computed_pixels(self.meta["long_pixel_formula"], (num_frames, *stored.shape[1:]))


def visual_path_cases(folder: Path, meta: dict[str, Any]) -> Iterator[CaseResult]:
    """Run every case of ``assembly.safetensors``, alone and all in one batch.

    Args:
        folder: Has the file.
        meta: What ``meta.json`` says of it.
    """
    recording = Recording(load_file(folder / "assembly.safetensors"), meta)
    for name in meta["cases"]:
        yield run_case(f"visual path {name}", with_explicit_attention, _compare, recording, [name])
    for kind in ("full", "dropped"):
        names = [name for name, case in meta["cases"].items() if name.endswith(kind) and _fits_batch(case)]
        if len(names) > 1:
            batch = f"visual path, {len(names)} videos in one batch, {kind}"
            yield run_case(batch, with_explicit_attention, _compare, recording, names)


def _fits_batch(case: dict[str, Any]) -> bool:
    return bool(case["frames_in"] <= _MOST_FRAMES_IN_BATCH)


@torch.no_grad()
def _compare(recording: Recording, names: Sequence[str]) -> Sequence[Check]:
    """Compare cases that leave out the same streams, read in one batch."""
    matches = [_CASE.fullmatch(name) for name in names]
    known = [match for match in matches if match is not None]
    if len(known) < len(names):
        raise ValueError(f"of {', '.join(names)} one is not a case that this command can compare")
    model = build_model(recording)
    left_out = frozenset({"frames"}) if known[0][2] == "dropped" else frozenset[str]()
    model(batch_of(recording, [int(match[1]) for match in known]), left_out=left_out)
    assert isinstance(model.language_model, RecordingLanguageModel)
    read = model.language_model.read
    checks = []
    for row, name in enumerate(names):
        length = int(read.mask[row].sum())
        checks += _compare_sequence(name, read.embeddings[row, :length], read.labels[row, :length], recording)
    return checks


def _compare_sequence(name: str, embeddings: Tensor, labels: Tensor, recording: Recording) -> Sequence[Check]:
    case, tensors = recording.meta["cases"][name], recording.tensors
    rows = tensors[f"{name}.rows"].long()
    total, magnitude = embeddings.double().sum().item(), embeddings.double().abs().sum().item()
    tail = case["label_tail"]
    lengths = exact_check(f"{name} length", len(embeddings), case["length"])
    if not lengths.passed:
        return [lengths]
    return [
        lengths,
        exact_check(f"{name} labels", int((labels != IGNORED_LABEL).sum()), case["labels_kept"]),
        exact_check(f"{name} last labels", labels[-len(tail) :].tolist(), tail),
        close_check(f"{name} values", embeddings[rows], tensors[f"{name}.values"]),
        relative_check(f"{name} sum", total, case["sum"], case["abs_sum"]),
        relative_check(f"{name} sum of magnitudes", magnitude, case["abs_sum"], case["abs_sum"]),
    ]


def build_model(recording: Recording) -> VideoLanguageModel:
    """Build our model of the recorded sizes, and load the recorded weights strictly."""
    state, tensors, meta = recording.state(), recording.tensors, recording.meta
    dim = state["image_newline"].shape[0]
    colours, height, width = tensors["in.pixels_u8"].shape[1:]
    projector = MlpProjector(colours, dim)
    projector.load_state_dict(_below(state, "mm_projector.", "layers."))
    newline = Newline(dim)
    newline.load_state_dict({"vector": state["image_newline"]})
    memory = memory_of_shapes(state, num_heads=meta["heads"])
    load_memory(memory, state)
    frames = FineFrames(
        dim,
        dim,
        num_frames=FINE_FRAMES,
        capacity=CAPACITY,
        projection="none",
        frame_positions=True,
        type_embedding=True,
    )
    frames.load_state_dict({TYPE_EMBEDDING: state[TYPE_TABLE][TYPE_ROWS["frames"]]})
    words = dict(zip(_WORDS, meta["prompts"], strict=True))
    model = VideoLanguageModel(
        encoder=PixelsAsPatches(colours, height * width),
        projector=projector,
        patch_pooling=GridPooling(dim, grid=patch_grid_side(memory.num_cells), reduction="bilinear"),
        newline=newline,
        frame_resampling=SegmentMultiples(SEGMENT_FRAMES),
        segmenter=FixedLength(SEGMENT_FRAMES),
        readers={"memory": StreamReader(memory), "frames": StreamReader(frames)},
        visual_prompt=_PROMPT,
        language_model=RecordingLanguageModel(tensors["embed.ids"], tensors["embed.rows"], words),
    )
    _check_all_read(state)
    return model.eval()


def batch_of(recording: Recording, lengths: Sequence[int]) -> Batch:
    """Videos of these lengths, each with the recorded conversation."""
    videos = [recording.pixels(length) for length in lengths]
    ids, labels = (recording.tensors[f"in.{name}"].repeat(len(lengths), 1) for name in ("input_ids", "labels"))
    return Batch(
        frames=torch.cat(videos),
        frame_counts=torch.tensor(lengths),
        frame_ms=torch.cat([1000 * torch.arange(length) for length in lengths]),
        picture_sizes=torch.zeros(len(lengths), 2, dtype=torch.int64),
        input_ids=ids,
        text_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        video_index=torch.arange(len(lengths))[:, None],
        questions=(),
    )


def _below(state: dict[str, Tensor], prefix: str, ours: str) -> dict[str, Tensor]:
    return {ours + name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


def _check_all_read(state: dict[str, Tensor]) -> None:
    """Refuse weights that no part of ours has read.

    Raises:
        ValueError: There are such weights.
    """
    prefixes = ("mm_projector.", "image_newline", "recurrent_memory_transformer.", "memory_fuser.", TYPE_TABLE)
    unread = [name for name in state if not name.startswith(prefixes)]
    if unread:
        raise ValueError(f"no part of ours reads {', '.join(unread)}")


def _computed_pixels(formula: str, shape: tuple[int, ...]) -> Tensor:
    """Pixels by a formula such as ``sin(0.7 f + 0.003 f y + 2)`` in frame, colour, row and column."""
    match = re.match(r"sin\(([^)]*)\)", formula)
    if match is None:
        raise ValueError(f"the formula {formula!r} of pixels is not understood")
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    of_letter = dict(zip("fcyx", axes, strict=True))
    angle = torch.zeros(shape, dtype=torch.float64)
    for term in match[1].split("+"):
        factor, *letters = term.split()
        product = torch.full((), float(factor), dtype=torch.float64)
        for letter in letters:
            product = product * of_letter[letter]
        angle = angle + product
    return angle.sin().float()
