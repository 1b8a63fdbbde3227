"""From a sample's number to frames and token ids: what runs in the data loader's worker processes."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.array_media import read_array
from datamodules.batch import EncodedConversation, Question, Sample
from datamodules.conversations import build_turns
from datamodules.errors import BrokenMediaError, SampleError
from datamodules.order import Draw
from datamodules.schema import ARRAY_ENDINGS, FEATURE_ENDINGS, IMAGE_ENDINGS, VIDEO_MARK, Conversation
from datamodules.shard_reader import RawSample, ShardReader
from datamodules.transforms import PixelTransform
from datamodules.video import FrameSampling, VideoFrames, read_image, sample_frames

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailurePolicy:
    """What happens to a sample that is wrong or whose media is broken.

    Args:
        on_error: ``raise`` ends the run. ``skip`` leaves the sample out: its batch gets smaller, no other sample takes
            its place.
        skipped_file: Where ``skip`` lists what it left out, one JSON line each time.

    Raises:
        ValueError: ``skip`` has no file to list its samples in.
    """

    on_error: Literal["raise", "skip"] = "raise"
    skipped_file: str | None = None

    def __post_init__(self) -> None:
        if self.on_error == "skip" and self.skipped_file is None:
            raise ValueError("on_error 'skip' needs skipped_file, the file that lists the skipped samples")


class MediaReader(NamedTuple):
    """How media bytes become frames."""

    sampling: FrameSampling
    transform: PixelTransform
    backend: str = "pyav"

    def read(self, raw: RawSample, seed: tuple[int, ...]) -> VideoFrames | None:
        """Decode and transform; None for text only.

        Cached features were sampled and transformed when they were written, and are taken as they are.

        Raises:
            SampleError: The media is broken.
        """
        if raw.media is None:
            return None
        if raw.ending in FEATURE_ENDINGS:
            return read_features(raw.media.read(), where=raw.where)
        if raw.ending in IMAGE_ENDINGS:
            decoded = read_image(raw.media.read(), where=raw.where)
        elif raw.ending in ARRAY_ENDINGS:
            decoded = read_array(raw.media.read(), raw.record, self.sampling, where=raw.where)
        else:
            decoded = sample_frames(
                raw.media.read(),
                self.sampling,
                backend=self.backend,
                start_ms=raw.record.start_ms,
                end_ms=raw.record.end_ms,
                where=raw.where,
            )
        return VideoFrames(self.transform(decoded.frames, seed), decoded.frame_ms)


def read_features(data: bytes, *, where: str) -> VideoFrames:
    """Read cached features: ``features`` ``[T, 1 + N, D]``, class token first, and ``frame_ms`` ``[T]`` int64.

    Raises:
        BrokenMediaError: The bytes hold no such tensors.
    """
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
        features, frame_ms = tensors["features"], tensors["frame_ms"]
    except (SafetensorError, KeyError) as error:
        raise BrokenMediaError(
            f"{where}: the cached features cannot be read ({error}); write the feature shards again"
        ) from error
    fits = features.ndim == 3 and features.is_floating_point() and len(features) > 0
    if not fits or frame_ms.dtype != torch.int64 or frame_ms.shape != features.shape[:1]:
        raise BrokenMediaError(
            f"{where}: cached features must be floats [T, 1 + N, D] with int64 frame_ms [T], got {features.dtype} "
            f"{list(features.shape)} with {frame_ms.dtype} {list(frame_ms.shape)}; write the feature shards again"
        )
    return VideoFrames(features, frame_ms)


class ConversationDataset(Dataset[Sample]):
    """Samples by number: media decoded once, every conversation about it that was drawn encoded.

    Args:
        reader: The shards.
        tokenizer: See ``load_tokenizer``.
        media: How media bytes become frames.
        max_length: Most ids of a conversation; None = no bound.
        seed: Seed of the augmentation, with a draw's position in the stream.
        failures: What happens to wrong samples.

    Raises:
        SampleError: The index knows of a wrong sample and the policy is to raise: better now than hours later.
    """

    def __init__(
        self,
        reader: ShardReader,
        tokenizer: Any,
        media: MediaReader,
        *,
        max_length: int | None = None,
        seed: int = 0,
        failures: FailurePolicy = FailurePolicy(),
    ) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self.media = media
        self.max_length = max_length
        self.seed = seed
        self.failures = failures
        if failures.on_error == "raise":
            self._check_index()

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, draw: Draw) -> Sample:
        """Read, decode and encode one sample.

        Raises:
            SampleError: The sample is wrong or its media is broken.
        """
        raw = self.reader.read(draw.sample)
        frames = self.media.read(raw, (self.seed, draw.position))
        num_frames = 0 if frames is None else len(frames.frames)
        spoken = raw.record.conversations
        chosen = spoken if draw.conversations is None else [spoken[number] for number in draw.conversations]
        conversations = tuple(self._encode(raw, item, num_frames) for item in chosen)
        if frames is None:
            return Sample(raw.key, None, None, conversations)
        return Sample(raw.key, frames.frames, frames.frame_ms, conversations)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Sample]:
        """Read one rank's part of a batch, as PyTorch's data loader asks for it.

        Raises:
            SampleError: A sample is wrong and the policy is to raise, or none of them is left.
        """
        if self.failures.on_error == "raise":
            return [self[draw] for draw in draws]
        samples = []
        reasons = []
        for draw in draws:
            try:
                samples.append(self[draw])
            except SampleError as error:
                reasons.append(str(error))
                self._report(draw, str(error))
        if not samples:
            raise SampleError(f"no sample of a batch is left, all {len(reasons)} were skipped; first: {reasons[0]}")
        return samples

    def num_skipped(self) -> int:
        """How many draws were left out, over all processes that share the list, this run and earlier ones."""
        path = Path(self.failures.skipped_file or "")
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    def _encode(self, raw: RawSample, conversation: Conversation, num_frames: int) -> EncodedConversation:
        where = f"{raw.where}, conversation {conversation.id!r}"
        encoded = build_turns(conversation.turns, self.tokenizer, max_length=self.max_length, where=where)
        asked = next(turn.content for turn in conversation.turns if turn.role == "user")
        answered = next(turn.content for turn in conversation.turns if turn.role == "assistant")
        question = Question(
            key=raw.key,
            id=conversation.id,
            source=raw.record.source,
            kind=conversation.kind,
            question=asked.replace(VIDEO_MARK, "").strip(),
            answer=answered.strip(),
            options=conversation.options,
            num_frames=num_frames,
            meta={name: str(value) for name, value in raw.record.meta.items()},
        )
        return EncodedConversation(encoded.input_ids, encoded.labels, question)

    def _report(self, draw: Draw, reason: str) -> None:
        assert self.failures.skipped_file is not None
        path = Path(self.failures.skipped_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {"where": self.reader.where(draw.sample), "position": draw.position, "reason": reason}
        with path.open("a", encoding="utf-8") as file:  # one short append: lines of several processes do not mix
            file.write(json.dumps(line) + "\n")
        _log.warning("sample %d skipped, %d so far: %s", draw.sample, self.num_skipped(), reason)

    def _check_index(self) -> None:
        wrong = [index for index in range(len(self.reader)) if self.reader.entry(index).problem is not None]
        if wrong:
            try:
                self.reader.read(wrong[0])
            except SampleError as error:
                raise SampleError(
                    f"{len(wrong)} of {len(self.reader)} samples are wrong. The first: {error}. Correct the shards, or "
                    "set on_error to 'skip' to leave such samples out and list them"
                ) from error
