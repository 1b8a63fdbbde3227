"""Reads samples of indexed shards by offset. No tar library, no decoder that could run code."""

from collections.abc import Sequence
from typing import NamedTuple

from datamodules.errors import SampleError
from datamodules.media_range import MediaRange
from datamodules.schema import Record, parse_record
from datamodules.shard_index import IndexEntry, ShardIndex


class RawSample(NamedTuple):
    """What a shard holds of one sample."""

    key: str
    where: str  # shard and key, for messages
    record: Record
    media: MediaRange | None
    ending: str | None  # of the media member


class ShardReader:
    """All samples of several shards, numbered through in the order of the shards.

    No file stays open, so one reader may be handed to any number of worker processes.

    Args:
        shards: Indexes of the shards.
    """

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.shards = tuple(shards)
        self._places = [(number, entry) for number, shard in enumerate(self.shards) for entry in shard.entries]

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, index: int) -> IndexEntry:
        """What the index knows of a sample."""
        return self._places[index][1]

    def shard(self, index: int) -> ShardIndex:
        """The shard that a sample lies in."""
        return self.shards[self._places[index][0]]

    def where(self, index: int) -> str:
        """Name a sample by its shard and key."""
        number, entry = self._places[index]
        return f"shard {self.shards[number].path}, key {entry.key!r}"

    def read(self, index: int) -> RawSample:
        """Read one sample.

        Raises:
            SampleError: The sample is wrong.
            ShardError: The shard is gone, or not what it was when it was indexed.
        """
        number, entry = self._places[index]
        where = self.where(index)
        if entry.problem is not None:
            raise SampleError(f"shard {self.shards[number].path}, {entry.problem}")
        ending = entry.media_ending
        record = parse_record(self._place(number, "json", entry).read(), where=where, has_media=ending is not None)
        media = None if ending is None else self._place(number, ending, entry)
        return RawSample(entry.key, where, record, media, ending)

    def _place(self, number: int, ending: str, entry: IndexEntry) -> MediaRange:
        return MediaRange(self.shards[number].path, *entry.members[ending])
