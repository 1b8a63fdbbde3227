"""Floating-point operations of one training step, from the shapes of a batch; docs/monitoring.md has the formula."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.flops.counting import count_flops, meta_copy
from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    Questions,
    SegmentInput,
    TextInputs,
    VideoTextBatch,
    VisualTokens,
)
from components.model import VideoLanguageModel, text_of
from components.question_text import before_answer


class StepWork(NamedTuple):
    """The sizes of one batch without padding. They stay on the batch's device until they are read."""

    frame_counts: Tensor  # [V] int64
    segment_groups: Tensor  # [V, S] int64, frame groups that the bridge read; 0 where a video has no such segment
    video_index: Tensor  # [C] int64
    text_tokens: Tensor  # [C] int64, without placeholder
    question_tokens: Tensor  # [C] int64
    answer_tokens: Tensor  # [C] int64, scored tokens


class StepFlops(NamedTuple):
    """Floating-point operations of a training step by part."""

    encoder: float
    bridge: float
    language_model: float

    @property
    def total(self) -> float:
        """Of the complete step."""
        return self.encoder + self.bridge + self.language_model


def work_of(batch: VideoTextBatch, segment_groups: Tensor) -> StepWork:
    """Measure the sizes of a batch, without waiting for its device.

    Args:
        batch: The batch.
        segment_groups: Frame groups that the bridge read of every segment, ``[V, S]``; see ``ModelOutput``.

    Returns:
        The sizes.
    """
    is_word = batch.text_mask & (batch.input_ids != VIDEO_PLACEHOLDER)
    scored = batch.text_mask[:, 1:] & (batch.labels[:, 1:] != IGNORED_LABEL)
    return StepWork(
        frame_counts=batch.frame_counts,
        segment_groups=segment_groups,
        video_index=batch.video_index,
        text_tokens=is_word.sum(dim=1),
        question_tokens=(is_word & before_answer(text_of(batch))).sum(dim=1),
        answer_tokens=scored.sum(dim=1),
    )


class ModelFlops:
    """Counts what a model has to compute for a batch: real frames, frame groups and tokens, forward and backward.

    Each part runs once on the meta device, where nothing is computed, for every size that it meets. Sizes without a
    bound are extrapolated from a few, because the form of their cost is known. In frozen parts only the backward pass
    that autograd needs is counted. Not counted are padding, the dummy frame of a batch without video, and what
    activation checkpointing or the memory-saving loss of every segment computes a second time.

    Args:
        model: The model, sharded or not. It is neither run nor changed.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        self._model = meta_copy(model)
        self._encoder_trains = any(p.requires_grad for p in model.encoder.parameters())
        self._states: list[Any] = [None]  # states after 0, 1, 2, ... segments of one frame group
        self._of_frames = cache(self._count_frames)
        self._of_segment = cache(self._count_segment)
        self._of_reading = cache(self._count_reading)
        self._of_language = cache(self._fit_language)

    def of(self, work: StepWork) -> StepFlops:
        """Operations of one training step.

        Args:
            work: The sizes of the batch; waits for its device.

        Raises:
            ValueError: The language model's cost does not have the expected form.
            Exception: Any error of a part that cannot run on the meta device.
        """
        groups = [[length for length in video if length] for video in work.segment_groups.tolist()]
        encoder = sum(self._video_frames(count) for count in work.frame_counts.tolist())
        bridge = sum(self._segments(video) for video in groups)
        language_model = 0.0
        per_video: dict[tuple[int, int], float] = {}
        columns = (work.video_index, work.text_tokens, work.question_tokens, work.answer_tokens)
        for video, text, question, answer in zip(*(column.tolist() for column in columns), strict=True):
            if video == TEXT_ONLY:
                language_model += self._of_language()(text, answer)
                continue
            for num_segments in self._readings(len(groups[video])):
                length = groups[video][num_segments - 1]
                cost, tokens = self._reading(num_segments, length, question)
                language_model += self._of_language()(text + tokens, answer)
                reading = (video, num_segments)
                # Without questions, all conversations of a video share one reading.
                bridge += cost if self._model.bridge.reads_questions or reading not in per_video else 0.0
                per_video[reading] = cost
        return StepFlops(encoder, bridge, language_model)

    def _readings(self, num_segments: int) -> list[int]:
        """Numbers of segments after which a loss with a weight above zero is taken."""
        schedule = self._model.loss_schedule
        weights = schedule.weights(torch.ones(1, num_segments, dtype=torch.bool))[0].tolist()
        return [step + 1 for step, weight in zip(schedule.steps(num_segments), weights, strict=True) if weight]

    def _video_frames(self, count: int) -> float:
        window = self._model.encoder.window_frames
        if window is None or count <= 2 * window:
            return self._of_frames(count)
        # Windows are counted from the video's start and do not attend to each other, so all further ones cost the same.
        further = self._of_frames(2 * window) - self._of_frames(window)
        return self._of_frames(window + count % window) + (count // window - 1) * further

    def _segments(self, groups: Sequence[int]) -> float:
        return sum(
            _along(lambda before, length=length: self._of_segment(before, length), index)  # type: ignore[misc]
            for index, length in enumerate(groups)
        )

    def _reading(self, num_segments: int, length: int, question: int) -> tuple[float, int]:
        """Cost of a reading and its number of visual tokens."""

        def cost(segments: int) -> float:
            if not self._model.bridge.reads_questions:
                return self._of_reading(segments, length, 0)[0]
            short, long = (self._of_reading(segments, length, words)[0] for words in _QUESTIONS)
            return short + (question - _QUESTIONS[0]) * (long - short) / (_QUESTIONS[1] - _QUESTIONS[0])

        tokens = _along(lambda segments: self._of_reading(segments, length, _QUESTIONS[0])[1], num_segments)
        return _along(cost, num_segments), round(tokens)

    def _count_frames(self, count: int) -> int:
        encoder = self._model.encoder
        one = encoder.dummy_frames("meta")
        frames = one.expand(count, *one.shape[1:])
        return count_flops(lambda: encoder(frames, torch.tensor([count])))[0]

    def _count_segment(self, before: int, length: int) -> int:
        state, segment = self._state(before), self._segment_input(length)
        return count_flops(lambda: self._model.bridge(segment, state))[0]

    def _count_reading(self, num_segments: int, length: int, question: int) -> tuple[int, int]:
        bridge, before = self._model.bridge, self._state(num_segments - 1)
        _, after = count_flops(lambda: bridge(self._segment_input(length), before), backward=False)
        state, questions = _as_leaves(after), self._questions(question) if bridge.reads_questions else None
        cost, visual = count_flops(lambda: bridge.read(state, questions))
        return cost, visual.mask.shape[1] if visual.mask.is_meta else int(visual.mask.sum())

    def _state(self, num_segments: int) -> Any:
        """State of the bridge after so many segments of one frame group."""
        while len(self._states) <= num_segments:
            run = partial(self._model.bridge, self._segment_input(1), self._states[-1])
            self._states.append(_as_leaves(count_flops(run, backward=False)[1]))
        return self._states[num_segments]

    def _segment_input(self, length: int) -> SegmentInput:
        encoder = self._model.encoder
        dtype = next((p.dtype for p in self._model.bridge.parameters()), torch.float32)
        shape = (1, length, encoder.num_patches, encoder.dim)
        patches = torch.empty(shape, dtype=dtype, device="meta", requires_grad=self._encoder_trains)
        return SegmentInput(patches, torch.ones(1, length, dtype=torch.bool), torch.arange(length)[None])

    def _questions(self, length: int) -> Questions:
        trains = any(p.requires_grad for p in self._model.language_model.parameters())
        words = torch.empty(1, length, self._model.language_model.dim, device="meta", requires_grad=trains)
        return Questions(words, torch.ones(1, length, dtype=torch.bool), torch.zeros(1, dtype=torch.long))

    def _fit_language(self) -> Callable[[int, int], float]:
        """Cost of a conversation of ``t`` positions, ``n`` of them scored: ``a + b t + c t^2 + d n``.

        Raises:
            ValueError: The cost does not have this form.
        """
        unit = _POSITIONS
        first, second, third, fourth = (self._count_language(multiple * unit, 1) for multiple in (1, 2, 3, 4))
        c = (third - 2 * second + first) / (2 * unit**2)
        b = (second - first) / unit - 3 * unit * c
        d = self._count_language(unit, 2) - first
        a = first - b * unit - c * unit**2 - d

        def cost(positions: int, scored: int) -> float:
            return a + b * positions + c * positions**2 + d * scored

        if abs(cost(4 * unit, 1) - fourth) > _FORM_TOLERANCE * fourth:
            raise ValueError(
                f"the cost of {type(self._model.language_model).__name__} is not quadratic in the "
                f"number of positions: {fourth} operations at {4 * unit}, expected {cost(4 * unit, 1):.0f}"
            )
        return cost

    def _count_language(self, positions: int, scored: int) -> int:
        language_model = self._model.language_model
        tokens = torch.empty(1, 1, language_model.dim, device="meta", requires_grad=True)
        visual = VisualTokens(tokens, torch.ones(1, 1, dtype=torch.bool))
        ids = torch.zeros(1, positions, dtype=torch.long)
        ids[0, 0] = VIDEO_PLACEHOLDER
        labels = torch.full_like(ids, IGNORED_LABEL)
        labels[0, -scored:] = 0
        text = TextInputs(ids, torch.ones_like(ids, dtype=torch.bool), labels, torch.zeros(1, dtype=torch.long))
        return count_flops(lambda: language_model(visual, text))[0]


def _along(cost: Callable[[int], float], number: int) -> float:
    """Cost at a number of segments: counted up to a few, then linear, as the cost of attention to them is."""
    if number <= _COUNTED_SEGMENTS:
        return cost(number)
    last = cost(_COUNTED_SEGMENTS)
    return last + (number - _COUNTED_SEGMENTS) * (last - cost(_COUNTED_SEGMENTS - 1))


def _as_leaves(state: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad), state)


# After so many segments the cost grows linearly: there is a memory from the second on, soon more keys than queries.
_COUNTED_SEGMENTS = 4
# Sizes at which a cost is fitted; small ones do, because the form is exact.
_POSITIONS = 16
_QUESTIONS = (32, 64)
# Allowed deviation from the form, as a share: some models round sizes up.
_FORM_TOLERANCE = 0.01
