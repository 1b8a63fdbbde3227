"""Floating-point operations of one training step, from the shapes of a batch; docs/monitoring.md has the formula."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from components.flops.counting import count_flops, meta_copy
from components.flops.stream_flops import StreamFlops
from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    TextInputs,
    VideoTextBatch,
    VisualTokens,
)
from components.model import VideoLanguageModel, text_of
from components.model_output import ModelOutput
from components.question_text import before_answer


class StepWork(NamedTuple):
    """The sizes of one batch without padding; on the host."""

    frame_counts: Tensor  # [V] int64
    segment_groups: dict[str, Tensor]  # a stream's [V, S] int64, frame groups read; 0 where a video has no such segment
    video_index: Tensor  # [C, M] int64, rows of ``segment_groups``
    text_tokens: Tensor  # [C] int64, without placeholder
    question_tokens: Tensor  # [C] int64
    answer_tokens: Tensor  # [C] int64, scored tokens
    left_out: frozenset[str] = frozenset()  # streams that are read, but not shown to the language model
    picture_tokens: Mapping[int, int] = {}  # of pictures in tiles, whose streams are not shown either


class StepFlops(NamedTuple):
    """Floating-point operations of a training step by part."""

    encoder: float  # with projector and pooling
    readers: float  # with reducers
    language_model: float

    @property
    def total(self) -> float:
        """Of the complete step."""
        return self.encoder + self.readers + self.language_model


def work_of(batch: VideoTextBatch, output: ModelOutput, left_out: frozenset[str] = frozenset()) -> StepWork:
    """Measure the sizes of a batch.

    Args:
        batch: The batch.
        output: What the model returned for it.
        left_out: Streams that were left out of this step.

    Returns:
        The sizes.
    """
    text = text_of(batch)
    is_word = text.text_mask & (text.input_ids != VIDEO_PLACEHOLDER)
    scored = text.text_mask[:, 1:] & (text.labels[:, 1:] != IGNORED_LABEL)
    return StepWork(
        frame_counts=batch.frame_counts,
        segment_groups=output.segment_groups,
        video_index=text.video_index if output.row_index is None else output.row_index,
        text_tokens=is_word.sum(dim=1),
        question_tokens=(is_word & before_answer(text)).sum(dim=1),
        answer_tokens=scored.sum(dim=1),
        left_out=left_out,
        picture_tokens=output.picture_tokens,
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
        before_readers = (model.encoder, model.projector, model.patch_pooling)
        trains = any(p.requires_grad for part in before_readers if part is not None for p in part.parameters())
        self._streams = {name: StreamFlops(self._model, name, trains) for name in model.readers}
        self._of_words = cache(partial(model.visual_prompt.count_words, model.language_model))
        self._of_frames = cache(self._count_frames)
        self._of_language = cache(self._fit_language)

    def of(self, work: StepWork) -> StepFlops:
        """Operations of one training step.

        Args:
            work: The sizes of the batch.

        Raises:
            ValueError: The language model's cost does not have the expected form.
            Exception: Any error of a part that cannot run on the meta device.
        """
        encoder = sum(self._video_frames(count) for count in work.frame_counts.tolist())
        groups = {
            name: [[length for length in video if length] for video in of_stream.tolist()]
            for name, of_stream in work.segment_groups.items()
        }
        readers = sum(self._streams[name].segments(video) for name, videos in groups.items() for video in videos)
        language_model = 0.0
        counted: set[tuple[str, int, int]] = set()
        columns = (work.video_index, work.text_tokens, work.question_tokens, work.answer_tokens)
        for media, text, question, answer in zip(*(column.tolist() for column in columns), strict=True):
            videos = [video for video in media if video != TEXT_ONLY]
            first = next(iter(groups.values()), [])
            for num_segments in self._readings(max((len(first[video]) for video in videos), default=0)):
                seen = 0
                for name, video in ((name, video) for video in videos for name in groups):
                    own = groups[name][video]
                    read = min(num_segments, len(own))
                    cost, tokens = self._streams[name].reading(read, own[read - 1], question)
                    seen += 0 if name in work.left_out or video in work.picture_tokens else tokens
                    # Without questions, all conversations of a video share one reading.
                    if self._streams[name].reader.reads_questions or (name, video, read) not in counted:
                        readers += cost
                    counted.add((name, video, read))
                words = sum(video not in work.picture_tokens for video in videos) * self._of_words(work.left_out)
                seen += sum(work.picture_tokens.get(video, 0) for video in videos)
                language_model += self._of_language()(text + seen + words, answer)
        return StepFlops(encoder, readers, language_model)

    def _readings(self, num_segments: int) -> list[int]:
        """Numbers of segments after which a loss with a weight above zero is taken; one reading for text only."""
        if num_segments == 0:
            return [0]
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

    def _count_frames(self, count: int) -> int:
        encoder = self._model.encoder
        one = encoder.dummy_frames("meta")
        frames = one.expand(count, *one.shape[1:])
        return count_flops(lambda: self._model.reduce_patches(encoder(frames, torch.tensor([count]))))[0]

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
        text = TextInputs(ids, torch.ones_like(ids, dtype=torch.bool), labels, torch.zeros(1, 1, dtype=torch.long))
        return count_flops(lambda: language_model(visual, text))[0]


# Numbers of positions at which the language model's cost is fitted; small ones do, because the form is exact.
_POSITIONS = 16
# Allowed deviation from the form, as a share: some models round sizes up.
_FORM_TOLERANCE = 0.01
