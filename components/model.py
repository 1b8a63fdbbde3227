"""The complete model: encode, segment, update the memory, read it, answer. A config chooses every part."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import (
    FrameEncoder,
    FrameFeatures,
    FrameSelection,
    LanguageModel,
    LossSchedule,
    Questions,
    Segmenter,
    Segments,
    TextInputs,
    VideoTextBatch,
    VisualReader,
    VisualTokens,
)
from components.losses import (
    FinalSegmentLoss,
    answer_loss_per_reading,
    penalty_weighted_by_likelihood,
    weighted_answer_loss,
)
from components.pretrained.saved_in_folder import SavedInFolder
from components.question_text import embed_questions
from components.selection.all_frames import AllFrames
from components.selection.gather import group_frames, num_segments_of, segment_inputs

WEIGHT_READING_METHODS = {"bridge": ("read",), "language_model": ("embed", "generate", "score_options", "probe")}
"""Methods of the parts, besides ``forward``, that read weights: a strategy that shards gathers the weights for them."""


class ModelOutput(NamedTuple):
    """Result of a training step."""

    loss: Tensor  # scalar; its mean over ranks (and batches of a step) is the mean over the answer tokens of them all
    reading_losses: Tensor  # [R] detached, one for each reading; the loss without weights and penalty
    num_answer_tokens: Tensor  # scalar int64
    segment_groups: Tensor  # [V, S] int64, frame groups that the bridge read; 0 where a video has no such segment
    num_computed_positions: int  # of the language model in all readings, with padding; 0 where it reports none
    num_positions: Tensor | None  # scalar int64, the same without padding
    penalty: Tensor | None  # scalar, detached: what the bridge added to the loss

    @property
    def segment_counts(self) -> Tensor:
        """Segments of every video, ``[V]`` int64."""
        return (self.segment_groups > 0).sum(dim=1)


class PackedVideos(NamedTuple):
    """The videos of a batch; one dummy frame if the batch has none."""

    frames: Tensor  # [F, ...]
    frame_counts: Tensor  # [V] int64
    frame_ms: Tensor  # [F] int64


def _same(value: int) -> int:
    return value


def _as_float(value: Tensor) -> Tensor:
    return value.float()


class VideoLanguageModel(SavedInFolder, nn.Module):
    """Answers questions about videos through a memory bridge.

    Args:
        encoder: Frames to features.
        segmenter: Cuts every video into segments.
        bridge: Reads segments in order.
        language_model: Answers.
        loss_schedule: After which segments the loss is taken.
        frame_selection: Which frames of a segment the bridge reads.
        agree_on_maximum: Turns this rank's number of segments into the largest over all ranks. With ZeRO-3 and FSDP
            every rank must call the bridge equally often; a single process needs no agreement.
        mean_over_ranks: Turns this rank's number of answer tokens into the mean over all ranks. Divided by it, the
            ranks' gradients average to that of one process with all their batches, however unequal their answers are.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        segmenter: Segmenter,
        bridge: VisualReader[Any],
        language_model: LanguageModel,
        loss_schedule: LossSchedule | None = None,
        frame_selection: FrameSelection | None = None,
        agree_on_maximum: Callable[[int], int] = _same,
        mean_over_ranks: Callable[[Tensor], Tensor] = _as_float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.segmenter = segmenter
        self.bridge = bridge
        self.language_model = language_model
        self.loss_schedule = loss_schedule or FinalSegmentLoss()
        self.frame_selection = frame_selection or AllFrames()
        self.agree_on_maximum = agree_on_maximum
        self.mean_over_ranks = mean_over_ranks

    def forward(self, batch: VideoTextBatch, answer_tokens: float | None = None) -> ModelOutput:
        """Loss of a batch of videos, images and plain text.

        Args:
            batch: See ``VideoTextBatch``.
            answer_tokens: What the loss is divided by. With gradient accumulation, the mean number of answer tokens of
                this rank's batches; None takes those of this batch.

        Returns:
            Loss with its graph, and figures for the log.
        """
        videos = self.packed_videos(batch)
        features = self.encoder(videos.frames, videos.frame_counts)
        segments = self.segment(features, videos.frame_counts)
        num_segments = segments.frame_mask.shape[1]
        states = self.run_segments(features, videos.frame_ms, segments)
        text = text_of(batch)
        questions = self.questions(text)
        readings = [self.bridge.read(states[step], questions) for step in self.loss_schedule.steps(num_segments)]
        segment_mask = segments.group_mask.any(dim=2)  # [V, S]
        losses = answer_loss_per_reading(self.language_model, readings, text)
        weights = self.loss_schedule.weights(segment_mask)
        num_tokens = losses[-1].num_tokens.sum()
        divisor = num_tokens if answer_tokens is None else torch.full_like(num_tokens, answer_tokens, dtype=torch.float)
        share = self.mean_over_ranks(divisor)  # 0 where no rank has an answer
        share = torch.where(share > 0, share, 1.0)
        loss = weighted_answer_loss(losses, weights, text.video_index, share)
        # Every trainable part is in the graph even if no conversation has a video, so that all ranks reduce the same.
        loss = loss + sum(0.0 * reading.tokens.float().sum() for reading in readings)
        penalty = self.bridge.penalty(states[-1])
        if penalty is not None:
            penalty = penalty_weighted_by_likelihood(penalty, text.video_index, losses[-1], share)
            loss = loss + penalty
        means = torch.stack([each.nll.detach().sum() / share for each in losses])
        read = [each.num_positions for each in losses if each.num_positions is not None]
        return ModelOutput(
            loss=loss,
            reading_losses=means,
            num_answer_tokens=num_tokens,
            segment_groups=segments.group_mask.sum(dim=2)[: batch.frame_counts.numel()],
            num_computed_positions=sum(each.num_computed_positions for each in losses),
            num_positions=torch.stack(read).sum() if read else None,
            penalty=None if penalty is None else penalty.detach(),
        )

    @torch.no_grad()
    def generate(self, batch: VideoTextBatch, max_new_tokens: int) -> list[str]:
        """Answer every conversation's first question greedily, after the last segment."""
        return self.language_model.generate(self.visual_tokens(batch), text_of(batch), max_new_tokens)

    @torch.no_grad()
    def score_options(self, batch: VideoTextBatch, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean log likelihood per token of every option of every conversation."""
        return self.language_model.score_options(self.visual_tokens(batch), text_of(batch), options)

    def visual_tokens(self, batch: VideoTextBatch) -> VisualTokens:
        """What the language model sees after each video's last segment."""
        videos = self.packed_videos(batch)
        features = self.encoder(videos.frames, videos.frame_counts)
        segments = self.segment(features, videos.frame_counts)
        return self.read(self.run_segments(features, videos.frame_ms, segments)[-1], text_of(batch))

    def read(self, state: Any, text: TextInputs) -> VisualTokens:
        """Turn a state of the bridge into what the language model sees for these conversations."""
        visual: VisualTokens = self.bridge.read(state, self.questions(text))
        return visual

    def questions(self, text: TextInputs) -> Questions | None:
        """What the conversations ask, where the bridge reads it."""
        return embed_questions(self.language_model, text) if self.bridge.reads_questions else None

    def packed_videos(self, batch: VideoTextBatch) -> PackedVideos:
        """The batch's videos, or one dummy frame that no conversation refers to."""
        if batch.frame_counts.numel():
            return PackedVideos(batch.frames, batch.frame_counts, batch.frame_ms)
        frames = self.encoder.dummy_frames(batch.input_ids.device)
        one = batch.frame_counts.new_ones(1)
        return PackedVideos(frames, one, torch.zeros_like(one))

    def segment(self, features: FrameFeatures, frame_counts: Tensor) -> Segments:
        """Cut the videos into segments, padded to the largest number of segments on any rank."""
        segment_index = self.segmenter.segment(features.cls, frame_counts)
        num_segments = self.agree_on_maximum(num_segments_of(segment_index, frame_counts))
        return group_frames(segment_index, frame_counts, num_segments, self.frame_selection)

    def run_segments(
        self, features: FrameFeatures, frame_ms: Tensor, segments: Segments, state: Any = None
    ) -> list[Any]:
        """Run the bridge over the segments of all videos at once, from a state on.

        Returns:
            The states after each of the S steps.
        """
        weights = next(self.bridge.parameters(), features.patches)
        states: list[Any] = []
        for segment in segment_inputs(features, frame_ms, segments):
            # Cached features or a half-precision encoder may have a different dtype than the bridge trains in.
            state = self.bridge(segment._replace(patches=segment.patches.to(weights.dtype)), state)
            states.append(state)
        return states


def text_of(batch: VideoTextBatch) -> TextInputs:
    """The conversations of a batch."""
    return TextInputs(batch.input_ids, batch.text_mask, batch.labels, batch.video_index)
