"""The content of an index file: a head, and a line of JSON for every sample of the shard.

The lines of a million samples take 0.2 GB. They stay bytes in memory, and one sample is parsed at a time. As Python
objects they would take five times as much in every worker process: reference counts make a fork copy their memory.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from datamodules.errors import ShardError
from datamodules.shards.member_names import (
    ARRAY_ENDINGS,
    FEATURE_ENDINGS,
    IMAGE_ENDINGS,
    VIDEO_ENDINGS,
    MediaCount,
    check_media,
    format_ending,
    is_allowed,
    media_endings,
)
from datamodules.shards.schema import MAX_JSON_BYTES, Meta
from datamodules.shards.shard_scan import Members, ScannedSample

_MODALITIES = {"video": VIDEO_ENDINGS | ARRAY_ENDINGS, "image": IMAGE_ENDINGS, "features": FEATURE_ENDINGS}


class MediumEntry(NamedTuple):
    """One medium of a sample."""

    ending: str  # of its member, such as ``mp4`` or ``0.jpg``
    meta: Meta

    @property
    def modality(self) -> str:
        """``video``, ``image`` or ``features``."""
        return next(name for name, endings in _MODALITIES.items() if format_ending(self.ending) in endings)

    @property
    def num_frames(self) -> int | None:
        """Frames as ``meta`` states them (an image has one); None where it does not."""
        stated = self.meta.get("num_frames")
        return int(stated) if stated is not None else {"image": 1}.get(self.modality)


class IndexEntry(NamedTuple):
    """One sample of a shard."""

    key: str
    members: Members
    num_conversations: int
    meta: Meta
    problem: str | None  # why the sample cannot be used, None where it can
    text_lengths: tuple[int, ...] = ()  # characters of every conversation, over all its turns
    media_meta: tuple[Meta, ...] = ()  # of numbered media
    shown: tuple[tuple[int, ...], ...] = ()  # numbered media that every conversation shows

    @property
    def media(self) -> tuple[MediumEntry, ...]:
        """The media of the sample, in their order; empty for text only."""
        endings = media_endings(self.members)
        return tuple(map(MediumEntry, endings, self.media_meta or [self.meta] * len(endings)))

    @property
    def used_media(self) -> tuple[MediumEntry, ...]:
        """The media that a conversation shows."""
        if not self.shown:
            return self.media
        used = {number for numbers in self.shown for number in numbers}
        return tuple(medium for number, medium in enumerate(self.media) if number in used)

    @property
    def num_media(self) -> tuple[int, ...]:
        """How many media every conversation shows."""
        if self.shown:
            return tuple(map(len, self.shown))
        return (len(self.media),) * len(self.text_lengths)

    @property
    def made_from(self) -> str:
        """Names of the files that the media were made from, as ``meta`` states them."""
        return ", ".join(str(medium.meta["media"]) for medium in self.media if "media" in medium.meta)

    @property
    def modality(self) -> str:
        """``video``, ``image``, ``features`` or ``text``; ``video`` if the sample has a video and images."""
        found = {medium.modality for medium in self.media}
        return next((name for name in _MODALITIES if name in found), "text")

    @property
    def num_frames(self) -> int | None:
        """Frames of all media that a conversation shows, as they are stated; None if those of one are not."""
        if not self.media:
            return int(self.meta.get("num_frames", 0))
        stated = [medium.num_frames for medium in self.used_media]
        return None if None in stated else sum(count or 0 for count in stated)


class IndexEntries:
    """The samples of one shard, in the tar's order.

    Args:
        shard: Path or url, for messages.
        rows: One line of JSON a sample. Each ends with a comma and a new line; the last one has no comma.
    """

    def __init__(self, shard: str, rows: bytes) -> None:
        self._shard = shard
        self._rows = rows
        self._ends = np.flatnonzero(np.frombuffer(rows, dtype=np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[IndexEntry]:
        """All samples, faster than asking for each.

        Raises:
            ShardError: See ``__getitem__``.
        """
        return self._read(b"[%b]" % self._rows)

    def __getitem__(self, index: int) -> IndexEntry:
        """One sample.

        Raises:
            IndexError: There is no such sample.
            ShardError: The index was not written by this project. It comes with the shard, so it is not trusted either.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"shard {self._shard} has {len(self)} samples, there is no number {index}")
        start = self._ends[index - 1] + 1 if index else 0
        return next(self._read(b"[%b]" % self._rows[start : self._ends[index]].rstrip(b",")))

    def _read(self, rows: bytes) -> Iterator[IndexEntry]:
        try:
            for key, members, count, meta, problem, lengths, *numbered in json.loads(rows):
                media_meta, shown = numbered or ((), ())
                entry = IndexEntry(
                    key,
                    _checked_members(members, problem),
                    count,
                    meta,
                    problem,
                    tuple(lengths),
                    tuple(media_meta),
                    tuple(map(tuple, shown)),
                )
                _check_numbered(entry)
                yield entry
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ShardError(
                f"shard {self._shard}: its index is damaged ({type(error).__name__}: {error}); remove it, and it is "
                "made again"
            ) from error


class IndexDocument(NamedTuple):
    """A complete and undamaged index file."""

    head: dict[str, Any]
    rows: bytes

    @classmethod
    def write(cls, stamp: dict[str, Any], samples: Sequence[ScannedSample]) -> "IndexDocument":
        """Make the index of a shard's samples; the stamp says which shard it is."""
        entries = [_entry(sample) for sample in samples]
        rows = ",\n".join(map(_row, entries)).encode() + b"\n"
        members = json.dumps([stamp["name"], [[entry.key, entry.members] for entry in entries]])
        fingerprint = hashlib.sha256(members.encode()).hexdigest()
        head = {"stamp": stamp, "fingerprint": fingerprint, "rows_sha256": hashlib.sha256(rows).hexdigest()}
        return cls(head, rows)

    @classmethod
    def read(cls, data: bytes, stamp: dict[str, Any]) -> "IndexDocument | None":
        """Read an index from a file; None if it belongs to another shard.

        Raises:
            ValueError: It is damaged, or was not made by ``write``.
        """
        first, _, rest = data.partition(b"\n")
        rows = rest.removesuffix(b"]}\n")
        try:
            head = json.loads(first + b"]}")
            if any(head["stamp"].get(name) != value for name, value in stamp.items()):
                return None
            undamaged = hashlib.sha256(rows).hexdigest() == head["rows_sha256"] and isinstance(head["fingerprint"], str)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"its head has another form ({type(error).__name__}: {error})") from error
        if not undamaged:
            raise ValueError("its rows are not those that were written")
        return cls(head, rows)

    def to_bytes(self) -> bytes:
        """The bytes of the file; all of them together are one JSON document."""
        return json.dumps(self.head).encode().removesuffix(b"}") + b', "samples": [\n' + self.rows + b"]}\n"


def _entry(sample: ScannedSample) -> IndexEntry:
    if sample.record is None:
        return IndexEntry(sample.key, sample.members, 0, {}, str(sample.error))
    conversations = sample.record.conversations
    lengths = tuple(sum(len(turn.content) for turn in conversation.turns) for conversation in conversations)
    entry = IndexEntry(sample.key, sample.members, len(conversations), sample.record.meta, None, lengths)
    if not MediaCount.of(media_endings(sample.members)).is_numbered:
        return entry
    return entry._replace(
        media_meta=tuple(facts.meta for facts in sample.record.media),
        shown=tuple(conversation.media for conversation in conversations),
    )


def _row(entry: IndexEntry) -> str:
    """The line of a sample. That of a sample without numbered media has no facts about them, as in earlier versions."""
    return json.dumps(entry if entry.shown else entry[: entry._fields.index("media_meta")])


def _checked_members(listed: dict[str, list[int]], problem: str | None) -> Members:
    members = {}
    for ending, (offset, size) in listed.items():
        if not is_allowed(ending) or int(offset) < 0 or int(size) < 0:
            raise ValueError(f"no member {ending!r} can be at byte {offset} with {size} bytes")
        members[ending] = (offset, size)
    if problem is None and members["json"][1] > MAX_JSON_BYTES:
        raise ValueError(f"its JSON has more than {MAX_JSON_BYTES} bytes")
    return members


def _check_numbered(entry: IndexEntry) -> None:
    if entry.problem is not None or (len(entry.members) <= 2 and not entry.shown and not entry.media_meta):
        return
    endings = media_endings(entry.members)
    check_media(endings, f"key {entry.key!r}")
    shown = {number for numbers in entry.shown for number in numbers}
    if len(entry.media_meta) != len(endings) or len(entry.shown) != len(entry.text_lengths):
        raise ValueError(f"key {entry.key!r} has no facts about some of its media")
    if not shown <= set(range(len(endings))):
        raise ValueError(f"key {entry.key!r} shows media {sorted(shown)} of {len(endings)}")
