"""Reads samples of indexed shards by byte offset, without a tar library and without decoders that could run code."""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datamodules.errors import SampleError
from datamodules.shards.index_entries import IndexEntry
from datamodules.shards.media_range import MediaRange
from datamodules.shards.member_names import MediaCount, format_ending, media_endings
from datamodules.shards.schema import MediumFacts, Record, parse_record
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import ShardIndex, load_index
from datamodules.shards.shard_names import find_shards

_INDEXED_AT_ONCE = 8  # enough to hide a store's latency


class RawMedium(NamedTuple):
    """One video, image or file of cached features as its shard has it, not decoded."""

    where: str  # shard and key, and the member of several, for messages
    content: MediaRange
    ending: str  # without the number of the medium
    facts: MediumFacts


class RawSample(NamedTuple):
    """One sample as its shard has it, not decoded."""

    key: str
    where: str  # shard and key, for messages
    record: Record
    media: tuple[RawMedium, ...]  # empty for text only


class ShardReader:
    """All samples of several shards, numbered through in the order of the shards.

    No file stays open, so one reader can be copied to any number of worker processes. Remote shards are read from local
    copies, which are downloaded when they are first needed.

    Args:
        shards: Indexes of the shards.
    """

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.shards = tuple(shards)
        self._starts = list(itertools.accumulate((len(shard.entries) for shard in self.shards), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def entry(self, index: int) -> IndexEntry:
        """The index entry of a sample."""
        shard, number = self._find(index)
        return shard.entries[number]

    def entries(self) -> Iterator[IndexEntry]:
        """The index entries of all samples, in order; faster than ``entry`` for each."""
        return itertools.chain.from_iterable(shard.entries for shard in self.shards)

    def shard(self, index: int) -> ShardIndex:
        """The shard that a sample is in."""
        return self._find(index)[0]

    def where(self, index: int) -> str:
        """Name a sample by its shard and key."""
        return f"shard {self._find(index)[0].url}, key {self.entry(index).key!r}"

    def read(self, index: int) -> RawSample:
        """Read one sample.

        Raises:
            SampleError: The sample is wrong.
            ShardError: The shard is gone, changed since it was indexed, or cannot be downloaded.
        """
        shard, number = self._find(index)
        entry = shard.entries[number]
        where = f"shard {shard.url}, key {entry.key!r}"
        if entry.problem is not None:
            raise SampleError(f"shard {shard.url}, {entry.problem}")
        path = Path(shard.url) if shard.cached is None else shard.cached.path
        endings = media_endings(entry.members)
        count = MediaCount.of(endings)
        document = MediaRange(path, *entry.members["json"], shard.cached).read()
        record = parse_record(document, where=where, media=count)
        media = tuple(
            RawMedium(
                f"{where}, member {ending!r}" if count.is_numbered else where,
                MediaRange(path, *entry.members[ending], shard.cached),
                format_ending(ending),
                record.medium(number),
            )
            for number, ending in enumerate(endings)
        )
        return RawSample(entry.key, where, record, media)

    def _find(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, so no number {index}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self.shards[number], index - self._starts[number]


def open_shards(patterns: str | Sequence[str], cache: ShardCache = ShardCache()) -> ShardReader:  # noqa: B008  frozen
    """Find shards and read or make their indexes, several at a time.

    Args:
        patterns: Paths, folders, urls and patterns, see ``find_shards``.
        cache: Where local copies of remote shards are stored.

    Raises:
        ShardError: A pattern names no shard, or a shard cannot be read.
    """
    shards = find_shards(patterns)
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        indexes = pool.map(partial(load_index, cache=cache), shards)
        # With stored indexes this is quick and needs no progress bar.
        return ShardReader(list(tqdm(indexes, "indexing shards", len(shards), leave=False, delay=2, unit="shard")))
