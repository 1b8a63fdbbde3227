"""What can be drawn and how long it is: known from the shards' indexes, nothing is decoded.

A unit is what one draw gives: a sample with all its conversations, or with a group of them where
``conversations_per_video`` divides them. Its video is decoded once for all its conversations.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.media.frame_sampling import FrameSampling
from datamodules.order.text_tokens import TextTokens
from datamodules.shards.index_entries import IndexEntry
from datamodules.shards.shard_reader import ShardReader

IndexArray = NDArray[np.int64]

MODALITIES = ("video", "image", "features", "text")


@dataclass(frozen=True)
class Cost:
    """How much work a unit is: ``frame_tokens * frames + tokens``, all in text tokens of the language model.

    The ranks' work is balanced by it, and units of like cost share a batch. What holds is the ratio: for a large
    language model behind a frozen encoder a frame costs a few tokens, for a small one that trains its encoder hundreds.

    Args:
        frame_tokens: Tokens that cost as much as encoding and bridging one frame.
        visual_tokens: Tokens that the language model reads of a video or image, in every conversation about it: those
            of the bridge's readout. None where no budget of tokens asks for them, and then they are not counted.

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

    frames: IndexArray  # [N] that reach the model, -1 where the index does not tell
    modality: IndexArray  # [N] into MODALITIES
    first_conversation: IndexArray  # [N + 1] where a sample's conversations begin in ``tokens``
    tokens: IndexArray  # [conversations of all samples] that the language model reads, the visual ones too

    def check_lengths(self, reader: ShardReader) -> None:
        """Refuse samples of unknown length.

        Raises:
            ValueError: The index does not tell how many frames a sample gives.
        """
        unknown = np.flatnonzero(self.frames < 0)
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} of {len(self.frames)} samples do not tell their length, which a budget of frames goes "
                f"by; the first: {reader.where(int(unknown[0]))}. Write meta.duration_ms (or meta.num_frames) into "
                "their JSON: the converters do it where they probe the media, and `python -m datamodules.validate` "
                "finds such samples. Or sample a fixed number of frames (sampling.num_frames), or set batch_size"
            )


def sampled_frames(entry: IndexEntry, sampling: FrameSampling) -> int | None:
    """Most frames that a sample gives, as far as the index tells.

    An image has one frame and text none. Cached features and videos have at most ``meta.num_frames``; from a video the
    sampling takes a fixed number, or as many as ``meta.duration_ms`` asks (the length of the part that is meant, where
    the sample has ``start_ms`` or ``end_ms``). Of a wrong sample nothing reaches the model.

    Returns:
        The number of frames; None where the index does not tell.
    """
    if entry.problem is not None:
        return 0
    stated = entry.num_frames
    if entry.modality != "video":
        return stated
    duration_ms = entry.meta.get("duration_ms")
    known = [] if stated is None else [stated]
    if sampling.num_frames is not None:
        known.append(sampling.num_frames)
    elif isinstance(duration_ms, int | float):
        known.append(sampling.count(int(duration_ms)))
    elif known and sampling.max_frames is not None:
        known.append(sampling.max_frames)
    return min(known, default=None)


def tabulate(reader: ShardReader, sampling: FrameSampling, text: TextTokens | None, visual_tokens: int) -> SampleTable:
    """Read the lengths of all samples from their index.

    Args:
        reader: The samples.
        sampling: How many frames a video gives.
        text: How many tokens a conversation's text has; None where nobody asks, and all are counted as 0.
        visual_tokens: Tokens of a video or image in every conversation about it.
    """
    entries = list(reader.entries())
    frames = [sampled_frames(entry, sampling) for entry in entries]
    modality = np.array([MODALITIES.index(entry.modality) for entry in entries], dtype=np.int64)
    counts = np.array([len(entry.text_lengths) for entry in entries], dtype=np.int64)
    characters = np.array([length for entry in entries for length in entry.text_lengths], dtype=np.int64)
    visual = np.repeat(np.where(modality == MODALITIES.index("text"), 0, visual_tokens), counts)
    return SampleTable(
        frames=np.array([-1 if count is None else count for count in frames], dtype=np.int64),
        modality=modality,
        first_conversation=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        tokens=np.zeros_like(characters) if text is None else text.estimate(characters) + visual,
    )


def stated_frames_of(reader: ShardReader) -> IndexArray:
    """Frames of every sample as its ``meta`` tells, ``[N]``, -1 where it does not."""
    known = (entry.num_frames for entry in reader.entries())
    return np.array([-1 if count is None else count for count in known], dtype=np.int64)


class UnitTable(NamedTuple):
    """U units of N samples. The units of a sample are neighbours, and each has its own stretch of its conversations."""

    sample: IndexArray  # [U]
    first_unit: IndexArray  # [N + 1]
    first_conversation: IndexArray  # [U] of the sample's conversations, in whatever order a pass puts them
    end_conversation: IndexArray  # [U]
    frames: IndexArray  # [U]
    modality: IndexArray  # [U]

    def of_samples(self, samples: IndexArray) -> IndexArray:
        """Units of these samples, in their order."""
        first = self.first_unit[samples]
        counts = self.first_unit[samples + 1] - first
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        units: IndexArray = np.repeat(first, counts) + steps
        return units


def divide(samples: SampleTable, conversations_per_video: int | None) -> UnitTable:
    """Make units of samples: ``ceil(q / conversations_per_video)`` of like size for q conversations; None makes one."""
    begin, end = samples.first_conversation[:-1], samples.first_conversation[1:]
    # A wrong sample has no conversation, and one unit all the same: drawing it is what reports it.
    counts = np.ones_like(begin) if conversations_per_video is None else -(-(end - begin) // conversations_per_video)
    counts = np.maximum(1, counts)
    sample = np.repeat(np.arange(len(counts)), counts)
    first_unit = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    part = np.arange(len(sample)) - first_unit[sample]
    size = (end - begin)[sample]
    return UnitTable(
        sample=sample,
        first_unit=first_unit,
        first_conversation=begin[sample] + part * size // counts[sample],
        end_conversation=begin[sample] + (part + 1) * size // counts[sample],
        frames=samples.frames[sample],
        modality=samples.modality[sample],
    )


def longest_unit(samples: SampleTable, units: UnitTable) -> int:
    """Most tokens that a unit can have, however a pass groups its sample's conversations."""
    begin, end = samples.first_conversation[:-1], samples.first_conversation[1:]
    of_sample = np.repeat(np.arange(len(begin)), end - begin)
    longest_first = samples.tokens[np.lexsort((-samples.tokens, of_sample))]
    sums = np.concatenate([[0], np.cumsum(longest_first)])
    size = -(-(end - begin) // np.diff(units.first_unit))  # of the sample's largest unit
    return int((sums[begin + size] - sums[begin]).max(initial=0))
