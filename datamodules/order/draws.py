"""What can be drawn and how long it is, as the shards' indexes state it. Nothing is decoded for this.

One draw is a sample with all its conversations, or with a group of them where ``conversations_per_video`` divides them.
The video of a draw is decoded once for all its conversations.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.picture_tiles import PictureTiles
from datamodules.order.text_tokens import TextTokens
from datamodules.shards.index_entries import IndexEntry, MediumEntry
from datamodules.shards.shard_reader import ShardReader

IndexArray = NDArray[np.int64]

MODALITIES = ("video", "image", "features", "text")


@dataclass(frozen=True)
class Cost:
    """How the work of a draw is counted: ``frame_tokens * frames + tokens``, in tokens of the language model.

    Work is balanced over the ranks by it, and with a budget draws of similar cost share a batch. Only the ratio of
    frames to tokens matters: a frame costs a few tokens where the encoder is frozen and the language model large, and
    hundreds where a small language model is trained together with the encoder.

    Args:
        frame_tokens: Number of tokens that cost as much as one frame in encoder and bridge.
        visual_tokens: Visual tokens that the language model reads for every video or image of a conversation:
            those of all readers and the words of the visual prompt. None = not counted; ``budget.max_tokens`` needs it.

    Raises:
        ValueError: A value is negative.
    """

    frame_tokens: float = 8.0
    visual_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.frame_tokens < 0 or (self.visual_tokens or 0) < 0:
            raise ValueError(f"frame_tokens and visual_tokens must not be negative, got {self}")


class SampleTable(NamedTuple):
    """Lengths of N samples."""

    frames: IndexArray  # [N] that reach the model, -1 where the index does not state it
    modality: IndexArray  # [N] into MODALITIES; a sample with videos and images is a video
    first_conversation: IndexArray  # [N + 1] index in ``tokens`` of a sample's first conversation
    tokens: IndexArray  # [conversations of all samples] that the language model reads, visual tokens included

    def check_lengths(self, reader: ShardReader) -> None:
        """Refuse samples of unknown length.

        Raises:
            ValueError: The index does not state how many frames a sample gives, and a budget counts them.
        """
        unknown = np.flatnonzero(self.frames < 0)
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} of {len(self.frames)} samples do not state their length, which a budget of frames "
                f"needs; the first: {reader.where(int(unknown[0]))}. Write meta.duration_ms (or meta.num_frames) into "
                "their JSON: the converters do it where they probe the media, and `python -m datamodules.validate` "
                "finds such samples. Or sample a fixed number of frames (sampling.num_frames), or set batch_size"
            )


class TiledPictures(NamedTuple):
    """Counts the frames of pictures that are cut into tiles."""

    tiles: PictureTiles
    tile_size: int  # pixels

    def frames_of(self, medium: MediumEntry, *, is_alone: bool) -> int:
        """Frames that a picture becomes: the most possible where its ``meta`` has no height and width."""
        if not is_alone:
            return 1
        height, width = (medium.meta.get(name) for name in ("height", "width"))
        if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            return self.tiles.most_frames(None, self.tile_size)
        return self.tiles.most_frames((height, width), self.tile_size)


def sampled_frames(entry: IndexEntry, sampling: FrameSampling, pictures: TiledPictures | None = None) -> int | None:
    """Most frames that a sample gives, over all media that a conversation shows, as far as the index states it.

    An image has one frame, or those of its tiles, and text has none. Cached features and videos have at most
    ``meta.num_frames``; from a video the sampling takes a fixed number, or a number that follows from
    ``meta.duration_ms`` (of the part between ``start_ms`` and ``end_ms`` where the sample has them). A wrong sample
    gives no frame.

    Returns:
        The number of frames; None where it is not known.
    """
    if entry.problem is not None:
        return 0
    if not entry.media:
        return entry.num_frames
    is_alone = len(entry.media) == 1
    counts = [
        pictures.frames_of(medium, is_alone=is_alone)
        if pictures is not None and medium.modality == "image"
        else _frames_of_medium(medium, sampling)
        for medium in entry.used_media
    ]
    return None if None in counts else sum(count or 0 for count in counts)


def _frames_of_medium(medium: MediumEntry, sampling: FrameSampling) -> int | None:
    stated = medium.num_frames
    if medium.modality != "video":
        return stated
    duration_ms = medium.meta.get("duration_ms")
    known = [] if stated is None else [stated]
    if sampling.num_frames is not None:
        known.append(sampling.num_frames)
    elif isinstance(duration_ms, int | float):
        known.append(sampling.count(int(duration_ms)))
    elif known and sampling.max_frames is not None:
        known.append(sampling.max_frames)
    return min(known, default=None)


def tabulate(
    reader: ShardReader,
    sampling: FrameSampling,
    text: TextTokens | None,
    visual_tokens: int,
    pictures: TiledPictures | None = None,
) -> SampleTable:
    """Read the lengths of all samples from their index.

    Args:
        reader: The samples.
        sampling: How many frames a video gives.
        text: Estimates the tokens of a conversation's text; None = all texts count as 0 tokens.
        visual_tokens: Tokens of every video or image that a conversation shows.
        pictures: How pictures are cut into tiles; None = each is one frame.
    """
    entries = list(reader.entries())
    frames = [sampled_frames(entry, sampling, pictures) for entry in entries]
    modality = np.array([MODALITIES.index(entry.modality) for entry in entries], dtype=np.int64)
    counts = np.array([len(entry.text_lengths) for entry in entries], dtype=np.int64)
    characters = np.array([length for entry in entries for length in entry.text_lengths], dtype=np.int64)
    visual = visual_tokens * np.array([shown for entry in entries for shown in entry.num_media], dtype=np.int64)
    return SampleTable(
        frames=np.array([-1 if count is None else count for count in frames], dtype=np.int64),
        modality=modality,
        first_conversation=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        tokens=np.zeros_like(characters) if text is None else text.estimate(characters) + visual,
    )


def stated_frames_of(reader: ShardReader) -> IndexArray:
    """Frames of every sample as its ``meta`` states them, ``[N]``, -1 where it does not."""
    known = (entry.num_frames for entry in reader.entries())
    return np.array([-1 if count is None else count for count in known], dtype=np.int64)


class DrawTable(NamedTuple):
    """The D draws of N samples. The draws of a sample follow each other; each has a part of its conversations."""

    sample: IndexArray  # [D]
    first_draw: IndexArray  # [N + 1]
    first_conversation: IndexArray  # [D] of the sample's conversations, in the order of the pass
    end_conversation: IndexArray  # [D]
    frames: IndexArray  # [D]
    modality: IndexArray  # [D]

    def of_samples(self, samples: IndexArray) -> IndexArray:
        """The draws of these samples, in their order."""
        first = self.first_draw[samples]
        counts = self.first_draw[samples + 1] - first
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        draws: IndexArray = np.repeat(first, counts) + steps
        return draws


def divide_samples(samples: SampleTable, conversations_per_video: int | None) -> DrawTable:
    """Divide samples into draws: q conversations make ``ceil(q / conversations_per_video)`` draws; None makes one."""
    begin, end = samples.first_conversation[:-1], samples.first_conversation[1:]
    # A wrong sample has no conversation and still one draw: reading it is what reports it.
    counts = np.ones_like(begin) if conversations_per_video is None else -(-(end - begin) // conversations_per_video)
    counts = np.maximum(1, counts)
    sample = np.repeat(np.arange(len(counts)), counts)
    first_draw = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    part = np.arange(len(sample)) - first_draw[sample]
    size = (end - begin)[sample]
    return DrawTable(
        sample=sample,
        first_draw=first_draw,
        first_conversation=begin[sample] + part * size // counts[sample],
        end_conversation=begin[sample] + (part + 1) * size // counts[sample],
        frames=samples.frames[sample],
        modality=samples.modality[sample],
    )


def longest_draw(samples: SampleTable, draws: DrawTable) -> int:
    """Most tokens that a draw can have, for any grouping of its sample's conversations."""
    begin, end = samples.first_conversation[:-1], samples.first_conversation[1:]
    of_sample = np.repeat(np.arange(len(begin)), end - begin)
    longest_first = samples.tokens[np.lexsort((-samples.tokens, of_sample))]
    sums = np.concatenate([[0], np.cumsum(longest_first)])
    size = -(-(end - begin) // np.diff(draws.first_draw))  # of the sample's largest draw
    return int((sums[begin + size] - sums[begin]).max(initial=0))
