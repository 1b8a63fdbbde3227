"""The complete model: encode, segment, read the segments, answer. A config chooses every part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.interfaces import (
    AnswerLoss,
    FrameEncoder,
    FrameFeatures,
    LanguageModel,
    LossSchedule,
    PatchPooling,
    Projector,
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
    weights_of_conversations,
)
from components.model_output import ModelOutput
from components.packed_frames import PackedVideos
from components.patches import ReadFrames, reduced_patches, without_unread_frames
from components.pretrained.saved_in_folder import SavedInFolder
from components.question_text import embed_questions
from components.selection.all_frames import AllFrames
from components.selection.gather import group_frames, num_segments_of, segment_inputs
from components.streams import MEMORY_STREAM, StreamReader, StreamState, check_readers, dtype_of, run_stream
from components.visual_prompt import VisualPrompt


def _same(value: int) -> int:
    return value


def _as_float(value: Tensor) -> Tensor:
    return value.float()


class VideoLanguageModel(SavedInFolder, nn.Module):
    """Answers questions about videos through memory bridges and other readers.

    The parts are children of the model: a reader under the name of its stream, a single one as ``bridge``.

    Args:
        encoder: Frames to features.
        projector: Maps the patches to another width before they are pooled.
        patch_pooling: Makes fewer patches of every frame.
        segmenter: Cuts every video into segments.
        readers: The readers by the names of their streams; or one reader, whose stream is ``memory``.
        visual_prompt: Words and streams that the language model sees of a video, see ``VisualPrompt``; by default the
            streams in their order.
        language_model: Answers.
        loss_schedule: After which segments the loss is taken.
        agree_on_maximum: Turns this rank's number of segments into the largest over all ranks. With ZeRO-3 and FSDP
            every rank must call the readers equally often; a single process needs no agreement.
        mean_over_ranks: Turns this rank's number of answer tokens into the mean over all ranks. Divided by it, the
            ranks' gradients average to that of one process with all their batches, however unequal their answers are.

    Raises:
        ValueError: There is no reader, a reader has the name of another part or cannot read what its reducer leaves,
            or the visual prompt does not name every stream once.
    """

    bridge: VisualReader[Any]

    def __init__(
        self,
        *,
        encoder: FrameEncoder,
        projector: Projector | None = None,
        patch_pooling: PatchPooling | None = None,
        segmenter: Segmenter,
        readers: StreamReader | Mapping[str, StreamReader],
        visual_prompt: str | None = None,
        language_model: LanguageModel,
        loss_schedule: LossSchedule | None = None,
        agree_on_maximum: Callable[[int], int] = _same,
        mean_over_ranks: Callable[[Tensor], Tensor] = _as_float,
    ) -> None:
        super().__init__()
        is_single = isinstance(readers, StreamReader)
        named = {MEMORY_STREAM: readers} if isinstance(readers, StreamReader) else readers
        check_readers(named, VideoLanguageModel)
        self.encoder = encoder
        self.segmenter = segmenter
        self.projector = projector
        self.patch_pooling = patch_pooling
        self._part_names = {name: "bridge" if is_single else name for name in named}
        for name, part in self._part_names.items():
            self.add_module(part, named[name].reader)
        self.frame_selections = {name: each.frame_selection or AllFrames() for name, each in named.items()}
        reducers = {name: each.reducer for name, each in named.items() if each.reducer is not None}
        self.reducers = nn.ModuleDict(reducers) if reducers else None
        self.language_model = language_model
        self.loss_schedule = loss_schedule or FinalSegmentLoss()
        every_stream = "".join(f"<{name}>" for name in named)
        self.visual_prompt = VisualPrompt(every_stream if visual_prompt is None else visual_prompt, named)
        self.agree_on_maximum = agree_on_maximum
        self.mean_over_ranks = mean_over_ranks

    @property
    def readers(self) -> dict[str, VisualReader[Any]]:
        """The readers by the names of their streams."""
        return {name: self.get_submodule(part) for name, part in self._part_names.items()}  # type: ignore[misc]

    @property
    def reader_parts(self) -> dict[str, VisualReader[Any]]:
        """The readers by their names as parts of the model, as in its parameters and the settings of a run."""
        return {part: self.readers[name] for name, part in self._part_names.items()}

    def forward(
        self, batch: VideoTextBatch, answer_tokens: float | None = None, left_out: frozenset[str] = frozenset()
    ) -> ModelOutput:
        """Loss of a batch of videos, images and plain text.

        Args:
            batch: See ``VideoTextBatch``.
            answer_tokens: What the loss is divided by. With gradient accumulation, the mean number of answer tokens of
                this rank's batches; None takes those of this batch.
            left_out: Visual streams that the language model does not see, with their words; equal on all ranks.

        Returns:
            Loss with its graph, and figures for the log.
        """
        segments, states = self.read_videos(self.packed_videos(batch))
        text = text_of(batch)
        # Every reader has the same segments.
        segment_mask = next(iter(segments.values())).group_mask.any(dim=2)  # [V, S]
        steps = self.loss_schedule.steps(segment_mask.shape[1])
        questions = self.questions(text)
        streams = [self._streams(states[step], questions) for step in steps]
        words = self.visual_prompt.embed_words(self.language_model)
        readings = [self.visual_prompt.join(each, words, text.video_index, left_out) for each in streams]
        losses = answer_loss_per_reading(self.language_model, readings, text)
        weights = weights_of_conversations(self.loss_schedule, segment_mask, text.video_index)
        num_tokens = losses[-1].num_tokens.sum().to(losses[-1].nll.device, non_blocking=True)
        divisor = num_tokens if answer_tokens is None else torch.full_like(num_tokens, answer_tokens, dtype=torch.float)
        share = self.mean_over_ranks(divisor)  # 0 where no rank has an answer
        share = torch.where(share > 0, share, 1.0)
        loss = weighted_answer_loss(losses, weights, share)
        # Every trainable part is in the graph even if no conversation has a video, so that all ranks reduce the same.
        loss = loss + sum(0.0 * stream.tokens.float().sum() for each in streams for stream in each.values())
        penalty = self._penalty(states[-1], text, losses[-1], share)
        means = torch.stack([each.nll.detach().sum() / share for each in losses])
        read = [each.num_positions for each in losses if each.num_positions is not None]
        num_videos = batch.frame_counts.numel()
        return ModelOutput(
            loss=loss if penalty is None else loss + penalty,
            reading_losses=means,
            num_answer_tokens=num_tokens,
            segment_groups={name: each.group_mask.sum(dim=2)[:num_videos] for name, each in segments.items()},
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
        _, states = self.read_videos(self.packed_videos(batch))
        return self.read(states[-1], text_of(batch))

    def read(self, states: Mapping[str, StreamState], text: TextInputs | None = None) -> VisualTokens:
        """Turn the states of all streams into what the language model sees.

        Args:
            states: State of every stream after the same segment.
            text: The conversations; only readers of questions need them.
        """
        streams = self._streams(states, None if text is None else self.questions(text))
        video_index = torch.zeros(1, 1, dtype=torch.int64) if text is None else text.video_index
        return self.visual_prompt.join(streams, self.visual_prompt.embed_words(self.language_model), video_index)

    @property
    def reads_questions(self) -> bool:
        """Whether what the language model sees of a video depends on the question."""
        return any(reader.reads_questions for reader in self.readers.values())

    def questions(self, text: TextInputs) -> Questions | None:
        """What the conversations ask, where a reader reads it."""
        return embed_questions(self.language_model, text) if self.reads_questions else None

    def packed_videos(self, batch: VideoTextBatch) -> PackedVideos:
        """The batch's videos, or one dummy frame that no conversation refers to."""
        if batch.frame_counts.numel():
            return PackedVideos(batch.frames, batch.frame_counts.cpu(), batch.frame_ms)
        frames = self.encoder.dummy_frames(batch.frames.device)
        one = torch.ones(1, dtype=torch.int64)
        return PackedVideos(frames, one, torch.zeros_like(one, device=frames.device))

    def read_videos(self, videos: PackedVideos) -> tuple[dict[str, Segments], list[dict[str, StreamState]]]:
        """Encode the videos, cut them into segments, and let every reader read them.

        Returns:
            What each reader has read, and the states of all streams after each of the S steps.
        """
        features = self.encoder(videos.frames, videos.frame_counts)
        segments = self.segment(features, videos.frame_counts)
        read = ReadFrames(features, videos.frame_ms, segments)
        if self.projector is not None or self.patch_pooling is not None:
            read = without_unread_frames(read)
        states = self.run_segments(self.reduce_patches(read.features), read.frame_ms, read.segments)
        return segments, states

    def reduce_patches(self, features: FrameFeatures) -> FrameFeatures:
        """Project and pool the patches of frames, in the dtype in which they are read."""
        dtype = dtype_of(next(iter(self.readers.values())), features.patches)
        return reduced_patches(features, self.projector, self.patch_pooling, dtype)

    def segment(self, features: FrameFeatures, frame_counts: Tensor) -> dict[str, Segments]:
        """Cut the videos into segments, padded to the largest number of segments on any rank.

        Returns:
            What each reader reads of them.
        """
        segment_index = self.segmenter.segment(features.cls, frame_counts).cpu()
        num_segments = self.agree_on_maximum(num_segments_of(segment_index, frame_counts))
        return self.group_frames(segment_index, frame_counts, num_segments)

    def group_frames(
        self, segment_index: Tensor, frame_counts: Tensor, num_segments: int, frames_before: int = 0
    ) -> dict[str, Segments]:
        """What each reader reads of segments that are known; see ``selection.gather.group_frames``."""
        return {
            name: group_frames(segment_index, frame_counts, num_segments, selection, frames_before)
            for name, selection in self.frame_selections.items()
        }

    def run_segments(
        self,
        features: FrameFeatures,
        frame_ms: Tensor,
        segments: Mapping[str, Segments],
        states: Mapping[str, StreamState] | None = None,
    ) -> list[dict[str, StreamState]]:
        """Run all readers over the segments of all videos at once, from a state on.

        Returns:
            The states of all streams after each of the S steps.
        """
        runs = {
            name: self._run_stream(name, features, frame_ms, segments[name], None if states is None else states[name])
            for name in self.readers
        }
        return [dict(zip(runs, step, strict=True)) for step in zip(*runs.values(), strict=True)]

    def _run_stream(
        self, name: str, features: FrameFeatures, frame_ms: Tensor, segments: Segments, state: StreamState | None
    ) -> list[StreamState]:
        reducer: Any = self.reducers[name] if self.reducers is not None and name in self.reducers else None
        inputs = segment_inputs(features, frame_ms, segments)
        return run_stream(self.readers[name], reducer, inputs, state)

    def _streams(self, states: Mapping[str, StreamState], questions: Questions | None) -> dict[str, VisualTokens]:
        return {name: reader.read(states[name].reader, questions) for name, reader in self.readers.items()}

    def _penalty(
        self, states: Mapping[str, StreamState], text: TextInputs, answers: AnswerLoss, share: Tensor
    ) -> Tensor | None:
        """What all readers add to the loss; None if none adds anything."""
        found = [reader.penalty(states[name].reader) for name, reader in self.readers.items()]
        given = [each for each in found if each is not None]
        if not given:
            return None
        of_video = torch.stack(given).sum(dim=0) if len(given) > 1 else given[0]
        return penalty_weighted_by_likelihood(of_video, text.video_index, answers, share)


def text_of(batch: VideoTextBatch) -> TextInputs:
    """The conversations of a batch, on the host."""
    fields = (batch.input_ids, batch.text_mask, batch.labels, batch.video_index)
    return TextInputs(*(field.cpu() for field in fields))
