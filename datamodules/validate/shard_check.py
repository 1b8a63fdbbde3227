"""Checks one shard by reading it as training does: members, JSON and media."""

import zlib
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import SampleError, ShardError
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.member_names import VIDEO_ENDINGS
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import make_index
from datamodules.shards.shard_reader import ShardReader
from datamodules.shards.shard_scan import ScannedSample
from datamodules.validate.conversation_check import ConversationCheck, TokenCounts

UNKNOWN_SOURCE = "(unknown)"
DUPLICATE_KEY = "duplicate key"


class Problem(NamedTuple):
    """Why a sample cannot be used."""

    kind: str
    reason: str


class CheckedSample(NamedTuple):
    """Result of checking one sample."""

    key: str
    source: str
    modality: str
    num_conversations: int
    decoded: bool
    problem: Problem | None
    tokens: TokenCounts = TokenCounts()


class CheckedShard(NamedTuple):
    """Result of checking one shard."""

    shard: str
    samples: list[CheckedSample]
    error: str | None  # why it cannot be read at all


class ShardCheck(NamedTuple):
    """How shards are checked.

    Args:
        sampling: Frames to decode of every video, chosen as in training; None = decode nothing.
        fraction: Share of the samples whose media is decoded; their keys decide which.
        decoding: Decoding library and limits.
        index_folder: Folder of the indexes; None = beside local shards, in the cache for remote ones.
        cache: Local copies of remote shards.
        thorough: Whether to decode every frame of every video too.
        conversations: How to encode conversations; None = do not.
    """

    sampling: FrameSampling | None = FrameSampling(num_frames=3)
    fraction: float = 1.0
    decoding: Decoding = Decoding()
    index_folder: Path | None = None
    cache: ShardCache = ShardCache()
    thorough: bool = False
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
        decode = sample.record is not None and bool(entry.media) and self._chosen(sample.key)
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
        assert self.sampling is not None
        transform = PixelTransform(PixelOptions(224), train=False)
        media = MediaReader(self.sampling, transform, self.decoding)
        size = transform.frame_size(self.decoding.max_pixels)
        try:
            for medium in reader.read(number).media:
                media.read(medium, (0,))
                if self.thorough and medium.ending in VIDEO_ENDINGS:
                    request = MediaRequest(medium.content, False, self.sampling, size, medium.where, every_frame=True)
                    decode_media(request, self.decoding)
        except SampleError as error:
            return Problem(error.kind, str(error))
        return None

    def _chosen(self, key: str) -> bool:
        return self.sampling is not None and zlib.crc32(key.encode()) < self.fraction * 2**32
