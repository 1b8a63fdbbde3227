"""Runs one visual stream: a reader and its reducer over the segments, one recurrent step after the other."""

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import FrameSelection, SegmentInput, SegmentReducer, VisualReader

MEMORY_STREAM = "memory"
"""Name of the visual stream where a model has a single reader."""

_STREAM_NAME = re.compile("[a-z][a-z0-9_]*")  # as visual prompts mark them
_OWN_PARTS = {"encoder", "projector", "patch_pooling", "reducers", "language_model", "segmenter", "readers", "bridge"}
_OWN_PARTS |= {"frame_selections", "newline", "picture_layout", "frame_resampling", "frame_scorer"}
_OWN_PARTS |= set(dir(nn.ModuleDict()))  # reducers are there by the names of their readers


class StreamReader(NamedTuple):
    """A reader, and what it is given of every segment."""

    reader: VisualReader[Any]
    frame_selection: FrameSelection | None = None  # None: all frames
    reducer: SegmentReducer[Any] | None = None  # None: all tokens


class StreamState(NamedTuple):
    """State of one visual stream after some segments."""

    reader: Any
    reducer: Any


def run_stream(
    reader: VisualReader[Any],
    reducer: SegmentReducer[Any] | None,
    segments: Iterable[SegmentInput],
    state: StreamState | None,
    steps: Collection[int] | None = None,
) -> list[StreamState]:
    """Read the segments in order, from a state on.

    Args:
        reader: Reads the segments.
        reducer: Leaves fewer tokens of each segment before; None leaves all.
        segments: One for each step.
        state: State before them; None before the first segment of the videos.
        steps: The steps whose states are returned; None for all. A state may hold the graph of all segments before it,
            so a state that nobody reads should be freed.

    Returns:
        The states after each of these steps, in the order of the segments.
    """
    states: list[StreamState] = []
    for step, segment in enumerate(segments):
        # Cached features or a half-precision encoder may have a different dtype than the reader trains in.
        segment = segment._replace(tokens=segment.tokens.to(dtype_of(reader, segment.tokens)))
        reduced = None
        if reducer is not None:
            segment, reduced = reducer(segment, None if state is None else state.reducer)
        state = StreamState(reader(segment, None if state is None else state.reader), reduced)
        if steps is None or step in steps:
            states.append(state)
    return states


def dtype_of(part: nn.Module, default: Tensor) -> torch.dtype:
    """Dtype of a part's weights; that of ``default`` if it has none."""
    return next(part.parameters(), default).dtype


def readers_by_stream(readers: StreamReader | Mapping[str, StreamReader]) -> Mapping[str, StreamReader]:
    """The readers by the names of their streams; a single one is ``memory``."""
    return {MEMORY_STREAM: readers} if isinstance(readers, StreamReader) else readers


def check_readers(readers: Mapping[str, StreamReader], owner: type[nn.Module]) -> None:
    """Check names of readers, and that each can read what its reducer leaves.

    Args:
        readers: The readers by name.
        owner: Class of the model, whose attributes no reader may hide.

    Raises:
        ValueError: See ``VideoLanguageModel``.
    """
    if not readers:
        raise ValueError("a model needs at least one reader, such as a memory bridge")
    taken = sorted(set(readers) & {*_OWN_PARTS, *dir(owner), *inspect.signature(owner).parameters})
    if taken:
        raise ValueError(
            f"readers may not be called {', '.join(taken)}: the model has other parts or attributes of these names"
        )
    odd = [name for name in readers if not _STREAM_NAME.fullmatch(name)]
    if odd:
        raise ValueError(
            f"readers may not be called {', '.join(map(repr, odd))}: take names of small letters, digits and _, such "
            "as memory, so that visual_prompt can name their streams"
        )
    for name, each in readers.items():
        if each.reducer is not None and not each.reducer.gives_grid and not each.reader.reads_kept_tokens:
            raise ValueError(
                f"reader {name!r} is a {type(each.reader).__name__}, which reads full grids, but the reducer "
                f"{type(each.reducer).__name__} leaves tokens out: take a reader with "
                "reads_kept_tokens = True, or no reducer"
            )
