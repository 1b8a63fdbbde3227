"""Reads a few samples of every source before a run starts, so that errors show at once and not hours later."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.conversations import build_turns
from datamodules.errors import SampleError
from datamodules.loader import Loading
from datamodules.media.media_reader import read_features
from datamodules.shards.member_names import FEATURE_ENDINGS
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import RawMedium, RawSample, ShardReader
from datamodules.shards.storage import is_remote

_LONGEST = 8
_DRAWN = 8
_MOST_CONVERSATIONS = 16  # of a sample, the longest: some pictures have thousands


class StartText(NamedTuple):
    """One conversation as the language model reads it."""

    where: str  # shard, key and conversation, for messages
    input_ids: Tensor  # [k] int64
    labels: Tensor  # [k] int64
    is_answered: bool  # the model generates an answer to it, as in validation


class StartMedia(NamedTuple):
    """Form of the frames that the encoder gets."""

    where: str  # shard and key, for messages
    dtype: torch.dtype
    shape: tuple[int, ...]  # of one frame; height and width are 0 if data.pixels.size is not set


class StartSample(NamedTuple):
    """Texts and media of a few samples of every source."""

    texts: list[StartText]
    media: list[StartMedia]  # of every source one with pixels and one with features, if it has them
    problems: list[str]  # messages about samples that cannot be read


class StartReader(NamedTuple):
    """Reads the samples: of each source the longest conversations and some random ones of one local shard.

    Remote shards are not read: a shard is downloaded completely, and one of each source may take minutes.
    """

    tokenizer: Any
    frame_side: int | None  # pixels; None if unknown
    loading: Loading
    seed: int

    def read(self, sources: Sequence[tuple[str | Sequence[str], bool]]) -> StartSample:
        """Read samples.

        Args:
            sources: Shards of every source as ``find_shards`` reads them, and whether the model answers its questions.

        Raises:
            ShardError: A source names no shard, or its shard cannot be read.
        """
        result = StartSample([], [], [])
        for number, (patterns, is_answered) in enumerate(sources):
            local = [shard for shard in find_shards(patterns) if not is_remote(shard)]
            if local:
                generator = np.random.default_rng([self.seed, number])
                shard = local[int(generator.integers(len(local)))]
                self._read_shard(ShardReader([load_index(shard, self.loading.cache)]), is_answered, generator, result)
        return result

    def _read_shard(
        self, reader: ShardReader, is_answered: bool, generator: np.random.Generator, result: StartSample
    ) -> None:
        wrong: list[str] = []
        num_right = 0
        found: set[bool] = set()
        for index in _chosen(reader, generator):
            try:
                raw = reader.read(index)
                for medium in raw.media:
                    if (medium.ending in FEATURE_ENDINGS) not in found:
                        result.media.append(self._form(medium))
                        found.add(medium.ending in FEATURE_ENDINGS)
                result.texts.extend(self._texts(raw, is_answered))
                num_right += 1
            except SampleError as error:
                wrong.append(str(error))
        may_skip = is_answered or self.loading.failures.on_error == "skip"
        if wrong and not (may_skip and num_right):
            more = f" (and {len(wrong) - 1} more of the {len(wrong) + num_right} that were tried)" if wrong[1:] else ""
            result.problems.append(wrong[0] + more)

    def _texts(self, raw: RawSample, is_answered: bool) -> list[StartText]:
        texts = []
        conversations = sorted(raw.record.conversations, key=lambda one: -sum(len(turn.content) for turn in one.turns))
        for conversation in conversations[:_MOST_CONVERSATIONS]:
            where = f"{raw.where}, conversation {conversation.id!r}"
            encoded = build_turns(
                conversation.turns,
                self.tokenizer,
                chat=self.loading.chat_settings,
                max_length=self.loading.max_length,
                where=where,
            )
            texts.append(StartText(where, encoded.input_ids, encoded.labels, is_answered))
        return texts

    def _form(self, medium: RawMedium) -> StartMedia:
        if medium.ending in FEATURE_ENDINGS:
            features = read_features(medium.content.read(), where=medium.where).frames
            return StartMedia(medium.where, features.dtype, tuple(features.shape[1:]))
        side = self.frame_side or 0
        return StartMedia(medium.where, torch.uint8, (3, side, side))


def _chosen(reader: ShardReader, generator: np.random.Generator) -> list[int]:
    """Numbers of the samples with the longest conversations and of some random ones, without wrong samples."""
    lengths = [max(entry.text_lengths, default=0) if entry.problem is None else -1 for entry in reader.entries()]
    usable = [number for number, length in enumerate(lengths) if length >= 0]
    longest = sorted(usable, key=lambda number: -lengths[number])[:_LONGEST]
    drawn = [usable[int(index)] for index in generator.permutation(len(usable))[:_DRAWN]]
    return sorted({*longest, *drawn})
