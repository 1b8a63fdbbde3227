"""The batch that every model reads, and the one function that builds it.

Schema, with V videos (an image is a video of one frame), F frames of all videos, C conversations, K text tokens, and M
videos of the conversation that has most of them (M is at least 1):

    frames        uint8 [F, 3, H, W]   pixels, videos back to back, never padded
                  float [F, rows, width]   or cached features, class token first, in the encoder's own dtype
    frame_counts  int64 [V]            frames of every video, each at least 1; their sum is F
    frame_ms      int64 [F]            time of every frame in its video, milliseconds
    picture_sizes int64 [V, 2]         height and width of a picture whose frames are the whole picture and its tiles;
                                       zeros for a video, and for a picture that is read as a video of one frame
    input_ids     int64 [C, K]         padded on the right; VIDEO_PLACEHOLDER is replaced by visual tokens
    text_mask     bool  [C, K]         True = real token
    labels        int64 [C, K]         IGNORED_LABEL where the loss ignores the token; not shifted
    video_index   int64 [C, M]         video of each VIDEO_PLACEHOLDER of a conversation, in their order; then
                                       TEXT_ONLY
    questions     C records            questions and answers in plain text, for reports and logs
    left_out      names                for every sample left out of this batch, the kind of its error

A batch without any video has V = 0 and F = 0. Several conversations may have the same video: it is decoded once, and is
in ``frames`` once.

Only frames and their times move to a device (``Batch.to``, which Lightning calls). The host plans a step with the rest:
which frames are read together, where visual tokens are inserted, which positions are scored. To read that back from the
device would make the host wait for all earlier work, many times a step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, TEXT_ONLY
from components.interfaces import VIDEO_PLACEHOLDER as VIDEO_PLACEHOLDER
from datamodules.media.sample_media import SampleMedia as SampleMedia

SKIPPED_KEY = ""
"""Key of the sample that fills a batch whose samples were all left out. It is not scored, counted or written."""

_PADDING_ID = 0  # always masked; any id that every embedding table has


class AskedTurn(NamedTuple):
    """A question of a conversation with its reference answer, in plain text."""

    question: str
    answer: str


class Question(NamedTuple):
    """Questions and answers of one conversation, in plain text. Without tensors, so device moves do not change it.

    ``question`` and ``answer`` are the first ones of the conversation; ``turns`` has all of them.
    """

    key: str
    id: str
    source: str
    category: str
    question: str
    answer: str
    options: tuple[str, ...]
    num_frames: int
    meta: dict[str, str]
    later_turns: tuple[AskedTurn, ...] = ()
    seconds: float | None = None  # length of the videos that the conversation shows; None if it shows none

    @property
    def turns(self) -> tuple[AskedTurn, ...]:
        """All questions of the conversation, in their order."""
        return (AskedTurn(self.question, self.answer), *self.later_turns)


class EncodedConversation(NamedTuple):
    """One conversation as token ids."""

    input_ids: Tensor  # [k] int64
    labels: Tensor  # [k] int64
    question: Question
    media: tuple[int, ...]  # of its sample: which medium each VIDEO_PLACEHOLDER shows, in their order; () for text only


class Sample(NamedTuple):
    """Videos or images, if any, and the conversations about them; ``collate`` makes batches of samples."""

    key: str
    media: tuple[SampleMedia, ...]  # empty for text only
    conversations: tuple[EncodedConversation, ...]


def empty_text_sample(why: str = "") -> Sample:
    """Make a sample that takes the place of one that was left out: text without any label.

    ``collate`` drops it if the batch has another sample. If not, the rank still needs a batch, because the other ranks
    wait for it in this step. Another real sample instead would be read twice.

    Args:
        why: Kind of error for which it was left out, see ``datamodules.errors``.
    """
    ids = torch.full((2,), _PADDING_ID)
    question = Question(SKIPPED_KEY, SKIPPED_KEY, "", why, "", "", (), 0, {})
    text = EncodedConversation(ids, torch.full_like(ids, IGNORED_LABEL), question, ())
    return Sample(SKIPPED_KEY, (), (text,))


class Batch(NamedTuple):
    """See the schema at the top of this file."""

    frames: Tensor
    frame_counts: Tensor
    frame_ms: Tensor
    picture_sizes: Tensor
    input_ids: Tensor
    text_mask: Tensor
    labels: Tensor
    video_index: Tensor
    questions: tuple[Question, ...]
    left_out: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> "Batch":
        """Move the frames and their times; the rest stays on the host."""
        frames, frame_ms = (each.to(device, non_blocking=True) for each in (self.frames, self.frame_ms))
        return self._replace(frames=frames, frame_ms=frame_ms)


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples into one batch; the result equals the samples one by one.

    Args:
        samples: Any mix of videos of different length, images and text; at least one, each with a conversation. Of
            samples by ``empty_text_sample`` one is used, and only if there is no other sample.

    Returns:
        The batch, conversations in the order of the samples.

    Raises:
        ValueError: Frames, times and conversations do not match. Joined anyway, every later video of the batch would
            get wrong frames.
    """
    if not samples:
        raise ValueError("collate got no sample; a batch needs at least one")
    for sample in samples:
        _check_sample(sample)
    left_out = [sample for sample in samples if sample.key == SKIPPED_KEY]
    samples = [sample for sample in samples if sample.key != SKIPPED_KEY] or left_out[:1]
    frames, frame_ms = _pack_frames(samples)
    media = [medium for sample in samples for medium in sample.media]
    counts = [len(medium.frames) for medium in media]
    sizes = [medium.picture_size or (0, 0) for medium in media]
    conversations = [conversation for sample in samples for conversation in sample.conversations]
    lengths = torch.tensor([len(conversation.input_ids) for conversation in conversations])
    text_mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]  # [C, K]
    return Batch(
        frames=frames,
        frame_counts=torch.tensor(counts, dtype=torch.int64),
        frame_ms=frame_ms,
        picture_sizes=torch.tensor(sizes, dtype=torch.int64).view(-1, 2),
        input_ids=_pad([conversation.input_ids for conversation in conversations], _PADDING_ID),
        text_mask=text_mask,
        labels=_pad([conversation.labels for conversation in conversations], IGNORED_LABEL),
        video_index=_video_index(samples),
        questions=tuple(conversation.question for conversation in conversations),
        left_out=tuple(sample.conversations[0].question.category for sample in left_out),
    )


def _check_sample(sample: Sample) -> None:
    if not sample.conversations:
        raise ValueError(f"sample {sample.key!r} has no conversation; a batch row needs one")
    for conversation in sample.conversations:
        if len(conversation.input_ids) != len(conversation.labels):
            raise ValueError(
                f"sample {sample.key!r}: {len(conversation.input_ids)} input ids but {len(conversation.labels)} labels"
            )
        unknown = [number for number in conversation.media if not 0 <= number < len(sample.media)]
        if unknown:
            raise ValueError(f"sample {sample.key!r}: a conversation shows medium {unknown[0]} of {len(sample.media)}")
    for medium in sample.media:
        if len(medium.frames) != len(medium.frame_ms):
            raise ValueError(
                f"sample {sample.key!r}: {len(medium.frames)} frames but {len(medium.frame_ms)} frame times"
            )
        if len(medium.frames) == 0:
            raise ValueError(f"sample {sample.key!r} has a video of no frame; give no media for text only")


def _pack_frames(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    media = [(sample.key, medium) for sample in samples for medium in sample.media]
    if not media:
        return torch.zeros(0, 3, 0, 0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    forms: dict[tuple[torch.dtype, tuple[int, ...]], list[str]] = {}
    for key, medium in media:
        forms.setdefault((medium.frames.dtype, tuple(medium.frames.shape[1:])), []).append(key)
    if len(forms) > 1:
        found = "; ".join(f"{dtype} {list(shape)}: {', '.join(keys[:5])}" for (dtype, shape), keys in forms.items())
        raise ValueError(
            f"all frames of a batch must have one size and type, but got {found}. "
            "Give every source the same transform, and do not mix cached features with pixels."
        )
    return torch.cat([medium.frames for _, medium in media]), torch.cat([medium.frame_ms for _, medium in media])


def _video_index(samples: Sequence[Sample]) -> Tensor:
    rows: list[Tensor] = []
    num_videos = 0
    for sample in samples:
        rows += [torch.tensor(one.media, dtype=torch.int64) + num_videos for one in sample.conversations]
        num_videos += len(sample.media)
    index = _pad(rows, TEXT_ONLY)
    return index if index.shape[1] else index.new_full((len(rows), 1), TEXT_ONLY)


def _pad(rows: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)  # [C, K]
