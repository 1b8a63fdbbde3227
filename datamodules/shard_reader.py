"""Reads samples of indexed shards by offset. No tar library, no decoder that could run code."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from datamodules.errors import SampleError, ShardError
from datamodules.schema import Record, parse_record
from datamodules.shard_index import IndexEntry, ShardIndex

_MAX_OPEN_SHARDS = 32


class RawSample(NamedTuple):
    """What a shard holds of one sample."""

    key: str
    where: str  # shard and key, for messages
    record: Record
    media: bytes | None
    ending: str | None  # of the media member


class ShardReader:
    """All samples of several shards, numbered through in the order of the shards.

    Every process opens its own files when it first needs them, so one reader may be handed to any number of worker
    processes.

    Args:
        shards: Indexes of the shards.
    """

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.shards = tuple(shards)
        self._places = [(number, entry) for number, shard in enumerate(self.shards) for entry in shard.entries]
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._owner = os.getpid()

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def entry(self, index: int) -> IndexEntry:
        """What the index knows of a sample."""
        return self._places[index][1]

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
        record = parse_record(self._member(number, *entry.members["json"]), where=where, has_media=ending is not None)
        media = None if ending is None else self._member(number, *entry.members[ending])
        return RawSample(entry.key, where, record, media, ending)

    def _member(self, number: int, offset: int, size: int) -> bytes:
        path = self.shards[number].path
        try:
            file = self._file(number)
            file.seek(offset)
            data = file.read(size)
        except OSError as error:
            raise ShardError(f"shard {path} cannot be read ({error.strerror}); is its disk still there?") from error
        if len(data) != size:
            raise ShardError(f"shard {path} ends before byte {offset + size}; it changed since it was indexed")
        return data

    def _file(self, number: int) -> BinaryIO:
        if self._owner != os.getpid():  # a forked worker shares its parent's file positions: open its own
            self._files, self._owner = OrderedDict(), os.getpid()
        if number not in self._files:
            if len(self._files) >= _MAX_OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            self._files[number] = self.shards[number].path.open("rb")
        self._files.move_to_end(number)
        return self._files[number]
