"""Floating-point operations of one visual stream: its reader and its reducer."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.flops.counting import count_flops
from components.interfaces import FrameFeatures, Questions, SegmentInput
from components.model import VideoLanguageModel
from components.streams import StreamState, run_stream

# After so many segments the cost grows linearly: there is a memory from the second on, soon more keys than queries.
_COUNTED_SEGMENTS = 4
# Lengths of a question at which the cost of a reading is fitted; small ones do, because the form is exact.
_QUESTIONS = (32, 64)


class StreamFlops:
    """Counts what the reader of one stream computes, on the meta device.

    Args:
        model: The model on the meta device.
        name: Name of the stream.
        has_gradient: Whether the patches get gradients, because something before the reader trains.
    """

    def __init__(self, model: VideoLanguageModel, name: str, has_gradient: bool) -> None:
        self._model = model
        self.reader = model.readers[name]
        self._reducer: Any = model.reducers[name] if model.reducers is not None and name in model.reducers else None
        self._has_gradient = has_gradient
        self._states: list[StreamState | None] = [None]  # states after 0, 1, 2, ... segments of one frame group
        self._patches_read = cache(partial(_patches_read, model))
        self._of_segment = cache(self._count_segment)
        self._of_reading = cache(self._count_reading)

    def segments(self, groups: Sequence[int]) -> float:
        """Cost of reading segments of so many frame groups each."""
        return sum(
            _along(lambda before, length=length: self._of_segment(before, length), index)  # type: ignore[misc]
            for index, length in enumerate(groups)
        )

    def reading(self, num_segments: int, length: int, question: int) -> tuple[float, int]:
        """Cost of a reading and its number of visual tokens.

        Args:
            num_segments: Segments before it.
            length: Frame groups of the last of them.
            question: Tokens of the question.
        """

        def cost(segments: int) -> float:
            if not self.reader.reads_questions:
                return self._of_reading(segments, length, 0)[0]
            short, long = (self._of_reading(segments, length, words)[0] for words in _QUESTIONS)
            return short + (question - _QUESTIONS[0]) * (long - short) / (_QUESTIONS[1] - _QUESTIONS[0])

        tokens = _along(lambda segments: self._of_reading(segments, length, _QUESTIONS[0])[1], num_segments)
        return _along(cost, num_segments), round(tokens)

    def _count_segment(self, before: int, length: int) -> int:
        state = self._state(before)
        return count_flops(partial(self._run, length, state))[0]

    def _count_reading(self, num_segments: int, length: int, question: int) -> tuple[int, int]:
        before = self._state(num_segments - 1)
        _, after = count_flops(partial(self._run, length, before), backward=False)
        state = _as_leaves(after.reader)
        questions = self._questions(question) if self.reader.reads_questions else None
        cost, visual = count_flops(lambda: self.reader.read(state, questions))
        return cost, visual.mask.shape[1] if visual.mask.is_meta else int(visual.mask[0].sum())

    def _state(self, num_segments: int) -> StreamState | None:
        """State after so many segments of one frame group."""
        while len(self._states) <= num_segments:
            run = partial(self._run, 1, self._states[-1])
            self._states.append(_as_leaves(count_flops(run, backward=False)[1]))
        return self._states[num_segments]

    def _run(self, length: int, state: StreamState | None) -> StreamState:
        """State after one more segment of ``length`` frame groups."""
        return run_stream(self.reader, self._reducer, [self._segment_input(length)], state)[-1]

    def _segment_input(self, length: int) -> SegmentInput:
        num_cells, dim = self._patches_read()
        dtype = next((p.dtype for p in self.reader.parameters()), torch.float32)
        shape = (1, length * num_cells, dim)
        frames = torch.arange(length)[None]
        saliency = None
        if self._reducer is not None and self._reducer.reads_saliency:
            saliency = torch.empty(shape[:2], device="meta")
        tokens = torch.empty(shape, dtype=dtype, device="meta", requires_grad=self._has_gradient)
        return SegmentInput(
            tokens, torch.ones(1, length, dtype=torch.bool), frames, frames, num_cells, saliency=saliency
        )

    def _questions(self, length: int) -> Questions:
        trains = any(p.requires_grad for p in self._model.language_model.parameters())
        words = torch.empty(1, length, self._model.language_model.dim, device="meta", requires_grad=trains)
        return Questions(words, torch.ones(1, length, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long))


def _along(cost: Callable[[int], float], number: int) -> float:
    """Cost at a number of segments: counted up to a few, then linear, as the cost of attention to them is."""
    if number <= _COUNTED_SEGMENTS:
        return cost(number)
    last = cost(_COUNTED_SEGMENTS)
    return last + (number - _COUNTED_SEGMENTS) * (last - cost(_COUNTED_SEGMENTS - 1))


def _patches_read(model: VideoLanguageModel) -> tuple[int, int]:
    """Number and width of the patches of a frame that readers read."""
    encoder = model.encoder
    one = FrameFeatures(
        torch.empty(1, encoder.dim, device="meta"), torch.empty(1, encoder.num_patches, encoder.dim, device="meta")
    )
    _, reduced = count_flops(lambda: model.reduce_patches(one), backward=False)
    return reduced.patches.shape[1], reduced.patches.shape[2]


def _as_leaves(state: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad), state)
