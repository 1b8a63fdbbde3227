"""The index of a tar shard: where every member lies, found by one pass over the tar's headers.

The pass also reads each sample's JSON (not its media), so that lengths are known before anything is decoded and a
wrong sample is known before training starts. The result is kept beside the shard as ``<shard>.index.json`` and made
again when the shard's size or time of change differs.
"""

import glob
import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datamodules.errors import SampleError, ShardError
from datamodules.schema import (
    FEATURE_ENDINGS,
    IMAGE_ENDINGS,
    MEDIA_ENDINGS,
    VIDEO_ENDINGS,
    parse_record,
    split_member_name,
)

_log = logging.getLogger(__name__)

_FORMAT = 2
_TAR_BLOCK = 512


class IndexEntry(NamedTuple):
    """One sample of a shard."""

    key: str
    members: dict[str, tuple[int, int]]  # ending -> offset and size in bytes
    num_conversations: int
    meta: dict[str, str | int | float]
    problem: str | None  # why the sample cannot be used, None where it can
    text_lengths: tuple[int, ...] = ()  # characters of every conversation, all its turns together

    @property
    def media_ending(self) -> str | None:
        """Ending of the media member; None for text only."""
        return next((ending for ending in self.members if ending in MEDIA_ENDINGS), None)

    @property
    def modality(self) -> str:
        """``video``, ``image``, ``features`` or ``text``."""
        ending = self.media_ending
        for name, endings in (("video", VIDEO_ENDINGS), ("image", IMAGE_ENDINGS), ("features", FEATURE_ENDINGS)):
            if ending in endings:
                return name
        return "text"

    @property
    def num_frames(self) -> int | None:
        """Frames as the sample's ``meta`` tells them (an image has one, text none); None where it does not."""
        stated = self.meta.get("num_frames")
        return int(stated) if stated is not None else {"image": 1, "text": 0}.get(self.modality)


class ShardIndex(NamedTuple):
    """All samples of one shard, in the tar's order."""

    path: Path
    entries: tuple[IndexEntry, ...]
    fingerprint: str  # of names, places and sizes; equal for a copy in another folder


def find_shards(patterns: str | Sequence[str]) -> list[Path]:
    """List the shards that paths, folders or glob patterns name, sorted within each pattern.

    Raises:
        ShardError: A pattern names nothing, or is no local path. A source that is silently empty would train on less
            than was asked.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern.startswith("pipe:") or "://" in pattern:
            raise ShardError(f"shard {pattern!r} is refused: shards are read from local paths, no commands are run")
        path = Path(pattern)
        names = [str(path / "*.tar")] if path.is_dir() else [pattern]
        matches = [pattern] if path.is_file() else sorted(glob.glob(names[0]))
        if not matches:
            raise ShardError(
                f"no shard matches {names[0]!r} (seen from {Path.cwd()}); check the path, or make the data"
            )
        found.update((Path(match), None) for match in matches)
    return list(found)


def load_index(shard: Path) -> ShardIndex:
    """Read a shard's index from the file beside it, or make it and keep it there if the folder can be written.

    Raises:
        ShardError: The shard is missing, empty, truncated, compressed, or holds a member that is refused.
    """
    try:
        status = shard.stat()
    except OSError as error:
        raise ShardError(
            f"shard {shard} cannot be read ({error.strerror}); check the path, or make the data"
        ) from error
    stamp = {"format": _FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    beside = shard.with_name(f"{shard.name}.index.json")
    entries = _read_cached(beside, stamp)
    if entries is None:
        entries = _scan(shard)
        _write_cached(beside, stamp, entries)
    places = json.dumps([shard.name, [[entry.key, entry.members] for entry in entries]])
    return ShardIndex(shard, entries, hashlib.sha256(places.encode()).hexdigest())


def _read_cached(beside: Path, stamp: dict[str, int]) -> tuple[IndexEntry, ...] | None:
    try:
        document = json.loads(beside.read_text(encoding="utf-8"))
        if document["stamp"] != stamp:
            return None
        return tuple(
            IndexEntry(
                key,
                {ending: (offset, size) for ending, (offset, size) in members.items()},
                count,
                meta,
                problem,
                tuple(text_lengths),
            )
            for key, members, count, meta, problem, text_lengths in document["samples"]
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("index %s cannot be used (%s); it is made again", beside, error)
        return None


def _write_cached(beside: Path, stamp: dict[str, int], entries: Sequence[IndexEntry]) -> None:
    # Several ranks may do this at once: each writes its own file, and the rename is atomic.
    temporary = beside.with_name(f".{beside.name}.{os.getpid()}.writing")
    try:
        temporary.write_text(json.dumps({"stamp": stamp, "samples": entries}), encoding="utf-8")
        temporary.replace(beside)
    except OSError as error:
        _log.info("index %s cannot be kept (%s); it is made again at every start", beside, error)


def _scan(shard: Path) -> tuple[IndexEntry, ...]:
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    previous = None
    with shard.open("rb") as file:
        for member in _members(shard, file):
            key, ending = split_member_name(member.name, str(shard))
            members = groups.setdefault(key, {})
            if (members and key != previous) or ending in members:
                raise ShardError(
                    f"shard {shard}, key {key!r}: its members are not side by side or {ending!r} is there twice; "
                    "give every sample its own key and write its members together"
                )
            members[ending] = (member.offset_data, member.size)
            previous = key
        if not groups:
            raise ShardError(f"shard {shard} is empty: it holds no sample; make it again or remove it")
        return tuple(_entry(file, key, members) for key, members in groups.items())


def _members(shard: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ShardError(f"shard {shard}: member {member.name!r} is refused: it is a link or no plain file")
                yield member
            file.seek(tar.offset)
    except tarfile.TarError as error:
        if file.seek(0, os.SEEK_END) == 0:
            raise ShardError(f"shard {shard} is empty: the file has no byte; make it again or remove it") from error
        raise ShardError(
            f"shard {shard} is truncated or no plain tar ({error}); copy it again. Compressed tars are not read, since "
            "members are found by their offset"
        ) from error
    if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise ShardError(
            f"shard {shard} is truncated or damaged: no end mark at byte {tar.offset}; copy it again or write it anew"
        )


def _entry(file: BinaryIO, key: str, members: dict[str, tuple[int, int]]) -> IndexEntry:
    where = f"key {key!r}"
    media = [ending for ending in members if ending in MEDIA_ENDINGS]
    try:
        if len(media) > 1:
            raise SampleError(f"{where}: several media members ({', '.join(media)}); a sample has one or none")
        if "json" not in members:
            raise SampleError(f"{where}: no JSON member; add {key}.json with its conversations, or drop the sample")
        offset, size = members["json"]
        file.seek(offset)
        record = parse_record(file.read(size), where=where, has_media=bool(media))
    except SampleError as error:
        return IndexEntry(key, members, 0, {}, str(error))
    text_lengths = tuple(sum(len(turn.content) for turn in item.turns) for item in record.conversations)
    return IndexEntry(key, members, len(record.conversations), record.meta, None, text_lengths)
