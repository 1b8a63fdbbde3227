"""Checks one shard as training would read it: members, JSON, and whether the media can be decoded."""

import zlib
from pathlib import Path
from typing import NamedTuple

from datamodules.conversation_check import ConversationCheck, TokenCounts
from datamodules.decoding import Decoding
from datamodules.errors import SampleError, ShardError
from datamodules.media_reader import MediaReader
from datamodules.shard_cache import ShardCache
from datamodules.shard_index import make_index
from datamodules.shard_reader import ShardReader
from datamodules.shard_scan import ScannedSample
from datamodules.transforms import PixelOptions, PixelTransform
from datamodules.video import FrameSampling

UNKNOWN_SOURCE = "(unknown)"


class Problem(NamedTuple):
    """Why a sample cannot be used."""

    kind: str
    reason: str


class CheckedSample(NamedTuple):
    """What was found of one sample."""

    key: str
    source: str
    modality: str
    num_conversations: int
    decoded: bool
    problem: Problem | None
    tokens: TokenCounts = TokenCounts()


class CheckedShard(NamedTuple):
    """What was found of one shard."""

    shard: str
    samples: list[CheckedSample]
    error: str | None  # why it cannot be read at all


class ShardCheck(NamedTuple):
    """How shards are checked.

    Args:
        num_frames: Frames decoded of every video, spread over its length; 0 decodes nothing.
        fraction: Part of the samples whose media is decoded. Which ones follows from their keys.
        decoding: With what media is decoded, and when a decoder is given up.
        index_folder: Where indexes are written; None = beside local shards, in the cache for remote ones.
        cache: Where local copies of remote shards are kept.
        conversations: How conversations are encoded; None does not.
    """

    num_frames: int = 3
    fraction: float = 1.0
    decoding: Decoding = Decoding()
    index_folder: Path | None = None
    cache: ShardCache = ShardCache()
    conversations: ConversationCheck | None = None

    def run(self, shard: str) -> CheckedShard:
        """Check one shard and write its index."""
        try:
            index, scanned = make_index(shard, self.cache, self.index_folder)
            reader = ShardReader([index])
            samples = [self._check(reader, number, sample) for number, sample in enumerate(scanned)]
            return CheckedShard(shard, samples, None)
        except ShardError as error:
            return CheckedShard(shard, [], str(error))

    def _check(self, reader: ShardReader, number: int, sample: ScannedSample) -> CheckedSample:
        entry = reader.entry(number)
        source = UNKNOWN_SOURCE if sample.record is None else sample.record.source
        decode = sample.record is not None and entry.media_ending is not None and self._chosen(sample.key)
        if sample.error is not None:
            problem: Problem | None = Problem(sample.error.kind, f"shard {reader.shards[0].url}, {sample.error}")
        else:
            problem = self._decode(reader, number) if decode else None
        tokens = TokenCounts()
        if problem is None and self.conversations is not None:
            try:
                tokens = self.conversations.run(reader.read(number))
            except SampleError as error:
                problem = Problem(error.kind, str(error))
        return CheckedSample(sample.key, source, entry.modality, entry.num_conversations, decode, problem, tokens)

    def _decode(self, reader: ShardReader, number: int) -> Problem | None:
        transform = PixelTransform(PixelOptions(), train=False)
        media = MediaReader(FrameSampling(num_frames=self.num_frames), transform, self.decoding)
        try:
            media.read(reader.read(number), (0,))
        except SampleError as error:
            return Problem(error.kind, str(error))
        return None

    def _chosen(self, key: str) -> bool:
        return self.num_frames > 0 and zlib.crc32(key.encode()) < self.fraction * 2**32
