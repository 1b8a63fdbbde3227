"""The complete model: encode, segment, read the segments, answer. A config chooses every part."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from components.interfaces import (
    TEXT_ONLY,
    AnswerLoss,
    FrameEncoder,
    FrameResampling,
    FrameScorer,
    LanguageModel,
    LossSchedule,
    PatchPooling,
    PictureLayout,
    Projector,
    Questions,
    Segmenter,
    TextInputs,
    VideoTextBatch,
    VisualTokens,
)
from components.losses import (
    FinalSegmentLoss,
    answer_loss_per_reading,
    penalty_weighted_by_likelihood,
    weighted_answer_loss,
    weights_of_conversations,
)
from components.media_rows import rows_of_media
from components.model_output import ModelOutput
from components.newline import Newline
from components.pictures.shown_pictures import PictureTokens, with_pictures
from components.pretrained.saved_in_folder import SavedInFolder
from components.question_text import embed_questions
from components.streams import StreamReader, StreamState, check_readers, readers_by_stream
from components.turns import TurnAnswer, answer_turns, evaluate_turns
from components.video_reading import AskedMedia, VideoReading
from components.visual_prompt import PieceTokens, VisualPrompt, check_newline


def _same(value: int) -> int:
    return value


def _as_float(value: Tensor) -> Tensor:
    return value.float()


class VideoLanguageModel(SavedInFolder, VideoReading):
    """Answers questions about videos through memory bridges and other readers.

    The parts are children of the model: a reader under the name of its stream, a single one as ``bridge``.

    Args:
        encoder: Frames to features.
        projector: Maps the patches to another width before they are pooled.
        patch_pooling: Makes fewer patches of every frame.
        newline: The learned vector that ``visual_prompt`` and ``picture_layout`` show.
        picture_layout: What is shown of a picture in tiles.
        frame_resampling: Which frames of a video are cut into segments; by default all, each once.
        frame_scorer: Tells ``frame_resampling`` how well each frame fits the question, where it chooses by that.
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
            or the visual prompt does not name every stream once; there is a newline that nothing shows, or none where
            one is shown; or see ``check_frame_choice``.
    """

    def __init__(
        self,
        *,
        encoder: FrameEncoder,
        projector: Projector | None = None,
        patch_pooling: PatchPooling | None = None,
        newline: Newline | None = None,
        picture_layout: PictureLayout | None = None,
        frame_resampling: FrameResampling | None = None,
        frame_scorer: FrameScorer | None = None,
        segmenter: Segmenter,
        readers: StreamReader | Mapping[str, StreamReader],
        visual_prompt: str | None = None,
        language_model: LanguageModel,
        loss_schedule: LossSchedule | None = None,
        agree_on_maximum: Callable[[int], int] = _same,
        mean_over_ranks: Callable[[Tensor], Tensor] = _as_float,
    ) -> None:
        named = readers_by_stream(readers)
        check_readers(named, VideoLanguageModel)
        super().__init__(
            encoder,
            projector,
            patch_pooling,
            newline,
            picture_layout,
            frame_resampling,
            frame_scorer,
            segmenter,
            readers,
            agree_on_maximum,
        )
        self.language_model = language_model
        self.loss_schedule = loss_schedule or FinalSegmentLoss()
        every_stream = "".join(f"<{name}>" for name in named)
        self.visual_prompt = VisualPrompt(every_stream if visual_prompt is None else visual_prompt, named)
        check_newline(self.visual_prompt, has_newline=newline is not None, has_layout=picture_layout is not None)
        self.mean_over_ranks = mean_over_ranks

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
        text = text_of(batch)
        read = self.read_videos(self.packed_videos(batch), self.loss_schedule.steps, self.asked(text))
        segments, states, pictures = read
        text = self.by_rows(text)
        # Every reader has the same segments.
        segment_mask = next(iter(segments.values())).group_mask.any(dim=2)  # [V, S]
        steps = self.loss_schedule.steps(segment_mask.shape[1])
        questions = self.questions(text)
        streams = [self._streams(states[step], questions) for step in steps]
        words = self._words()
        readings = [self._shown(each, words, text.video_index, pictures, left_out) for each in streams]
        losses = answer_loss_per_reading(self.language_model, readings, text)
        weights = weights_of_conversations(self.loss_schedule, segment_mask, text.video_index)
        num_tokens = losses[-1].num_tokens.sum().to(losses[-1].nll.device, non_blocking=True)
        divisor = num_tokens if answer_tokens is None else torch.full_like(num_tokens, answer_tokens, dtype=torch.float)
        share = self.mean_over_ranks(divisor)  # 0 where no rank has an answer
        share = torch.where(share > 0, share, 1.0)
        loss = weighted_answer_loss(losses, weights, share)
        # Every trainable part is in the graph even if no conversation has a video, so that all ranks reduce the same.
        loss = loss + sum(0.0 * stream.tokens.float().sum() for each in streams for stream in each.values())
        loss = loss + sum(0.0 * each.float().sum() for piece in words for each in piece if each is not None)
        if pictures is not None:
            loss = loss + pictures.unused
        penalty = self._penalty(read.last, text, losses[-1], share)
        means = torch.stack([each.nll.detach().sum() / share for each in losses])
        positions = [each.num_positions for each in losses if each.num_positions is not None]
        chooses = self.frame_scorer is not None
        is_read = text.video_index.flatten() != TEXT_ONLY if chooses else torch.ones(batch.frame_counts.numel()) > 0
        num_groups = {name: each.group_mask.sum(dim=2)[: len(is_read)] for name, each in segments.items()}
        return ModelOutput(
            loss=loss if penalty is None else loss + penalty,
            reading_losses=means,
            num_answer_tokens=num_tokens,
            segment_groups={name: each * is_read[:, None] for name, each in num_groups.items()},
            row_index=text.video_index if chooses else None,
            num_computed_positions=sum(each.num_computed_positions for each in losses),
            num_positions=torch.stack(positions).sum() if positions else None,
            penalty=None if penalty is None else penalty.detach(),
            picture_tokens={} if pictures is None else {video: len(own) for video, own in pictures.of_video.items()},
        )

    @torch.no_grad()
    def generate(self, batch: VideoTextBatch, max_new_tokens: int) -> list[str]:
        """Answer every conversation's first question greedily, after the last segment."""
        return self.language_model.generate(self.visual_tokens(batch), text_of(batch), max_new_tokens)

    @torch.no_grad()
    def score_options(self, batch: VideoTextBatch, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean log likelihood per token of every option of every conversation."""
        return self.language_model.score_options(self.visual_tokens(batch), text_of(batch), options)

    @torch.no_grad()
    def answer_turns(self, batch: VideoTextBatch, max_new_tokens: int) -> list[str]:
        """Answer every question of every conversation greedily, see ``components.turns.answer_turns``."""
        visual, text = self.visual_tokens(batch), text_of(batch)
        return answer_turns(self.language_model, visual, text, max_new_tokens, self.agree_on_maximum)

    @torch.no_grad()
    def evaluate_turns(
        self, batch: VideoTextBatch, max_new_tokens: int, options: Sequence[Sequence[str]]
    ) -> list[TurnAnswer]:
        """Answer and score every question of every conversation, see ``components.turns.evaluate_turns``."""
        visual, text = self.visual_tokens(batch), text_of(batch)
        return evaluate_turns(self.language_model, visual, text, max_new_tokens, options, self.agree_on_maximum)

    def visual_tokens(self, batch: VideoTextBatch) -> VisualTokens:
        """What the language model sees after each video's last segment."""
        text = text_of(batch)
        read = self.read_videos(self.packed_videos(batch), lambda _: (), self.asked(text))
        return self.read(read.last, text, read.pictures)

    def read(
        self, states: Mapping[str, StreamState], text: TextInputs | None = None, pictures: PictureTokens | None = None
    ) -> VisualTokens:
        """Turn the states of all streams into what the language model sees.

        Args:
            states: State of every stream after the same segment.
            text: The conversations; only readers of questions need them.
            pictures: What is shown of pictures in tiles.
        """
        text = None if text is None else self.by_rows(text)
        streams = self._streams(states, None if text is None else self.questions(text))
        video_index = torch.zeros(1, 1, dtype=torch.int64) if text is None else text.video_index
        shown = self._shown(streams, self._words(), video_index, pictures)
        return shown if self.frame_scorer is None else shown._replace(row_index=video_index)

    def asked(self, text: TextInputs) -> AskedMedia | None:
        """What the conversations ask, where frames are chosen by it."""
        if self.frame_scorer is None:
            return None
        return AskedMedia(self.language_model.question_words(text), text.video_index)

    def by_rows(self, text: TextInputs) -> TextInputs:
        """The conversations with ``video_index`` naming what the readers read: their rows.

        A row is a video; where frames are chosen by the question, it is a medium of a conversation.
        """
        return text if self.frame_scorer is None else text._replace(video_index=rows_of_media(text.video_index))

    def questions(self, text: TextInputs) -> Questions | None:
        """What the conversations ask, where a reader reads it."""
        return embed_questions(self.language_model, text) if self.reads_questions else None

    def _words(self) -> list[PieceTokens]:
        newline = self.newline if self.visual_prompt.has_newlines else None
        return self.visual_prompt.embed_words(self.language_model, None if newline is None else newline())

    def _shown(
        self,
        streams: Mapping[str, VisualTokens],
        words: Sequence[PieceTokens],
        video_index: Tensor,
        pictures: PictureTokens | None,
        left_out: frozenset[str] = frozenset(),
    ) -> VisualTokens:
        joined = self.visual_prompt.join(streams, words, video_index, left_out)
        return joined if pictures is None else with_pictures(joined, pictures.of_video, video_index)

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
