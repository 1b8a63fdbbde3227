"""The index of a tar shard: where every member lies, found by one pass over the tar's headers.

The pass also reads each sample's JSON (not its media), so that lengths are known before anything is decoded and a
wrong sample is known before training starts. The result is kept beside a local shard as ``<shard>.index.json`` and
made again when the shard's size or time of change differs.

The index of a remote shard is taken from the same place beside it if it is there and tells the shard's name and size,
so upload both, and both again after a change: without an index the whole shard is fetched for the pass. It is then kept
in the cache.

A million samples make 0.2 GB of index, kept as bytes and read a sample at a time: as objects they would take five times
as much, in every worker process, since counting references copies what a fork shares.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.errors import ShardError
from datamodules.schema import (
    ALLOWED_ENDINGS,
    ARRAY_ENDINGS,
    FEATURE_ENDINGS,
    IMAGE_ENDINGS,
    MAX_JSON_BYTES,
    MEDIA_ENDINGS,
    VIDEO_ENDINGS,
)
from datamodules.shard_cache import CachedShard, ShardCache
from datamodules.shard_scan import Members, ScannedSample, scan
from datamodules.storage import MissingFileError, find_remote, is_remote, read_remote

_log = logging.getLogger(__name__)

_FORMAT = 2


class IndexEntry(NamedTuple):
    """One sample of a shard."""

    key: str
    members: Members
    num_conversations: int
    meta: dict[str, str | int | float]
    problem: str | None  # why the sample cannot be used, None where it can
    text_lengths: tuple[int, ...] = ()  # characters of every conversation, over all its turns

    @property
    def media_ending(self) -> str | None:
        """Ending of the media member; None for text only."""
        return next((ending for ending in self.members if ending in MEDIA_ENDINGS), None)

    @property
    def modality(self) -> str:
        """``video``, ``image``, ``features`` or ``text``."""
        ending = self.media_ending
        modalities = {"video": VIDEO_ENDINGS | ARRAY_ENDINGS, "image": IMAGE_ENDINGS, "features": FEATURE_ENDINGS}
        return next((name for name, endings in modalities.items() if ending in endings), "text")

    @property
    def num_frames(self) -> int | None:
        """Frames as the sample's ``meta`` tells them (an image has one, text none); None where it does not."""
        stated = self.meta.get("num_frames")
        return int(stated) if stated is not None else {"image": 1, "text": 0}.get(self.modality)

    @property
    def duration_ms(self) -> int | None:
        """The media's length as the sample's ``meta`` tells it; None where it does not."""
        stated = self.meta.get("duration_ms")
        return None if stated is None else int(stated)


class IndexEntries:
    """The samples of one shard, in the tar's order.

    Args:
        shard: Path or url, for messages.
        rows: One line of JSON a sample, each ending with a comma and a new line, but for the last one's comma.
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
            ShardError: The index is not one that we wrote. It lies beside a shard, so it is trusted as little.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"shard {self._shard} has {len(self)} samples, there is no number {index}")
        start = self._ends[index - 1] + 1 if index else 0
        return next(self._read(b"[%b]" % self._rows[start : self._ends[index]].rstrip(b",")))

    def _read(self, rows: bytes) -> Iterator[IndexEntry]:
        try:
            for key, members, count, meta, problem, lengths in json.loads(rows):
                yield IndexEntry(key, _checked_members(members, problem), count, meta, problem, tuple(lengths))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ShardError(
                f"shard {self._shard}: its index is damaged ({type(error).__name__}: {error}); remove the index, which "
                "is then made again"
            ) from error


class ShardIndex(NamedTuple):
    """One shard and its samples."""

    url: str  # or a local path
    name: str  # without the folder
    entries: IndexEntries
    fingerprint: str  # of names, places and sizes; equal for a copy in another folder or store
    cached: CachedShard | None = None  # how a remote shard is read


def load_index(shard: str | Path, cache: ShardCache = ShardCache()) -> ShardIndex:  # noqa: B008  frozen
    """Read a shard's index from where it is kept, or make it and keep it there if the folder can be written.

    Args:
        shard: Path or url.
        cache: Where local copies of remote shards are kept.

    Raises:
        ShardError: The shard is missing, empty, truncated, compressed, or holds a member that is refused; or it is
            remote and cannot be fetched.
    """
    url = str(shard)
    return _load_remote(url, cache) if is_remote(url) else _load_local(Path(shard))


def _load_local(shard: Path) -> ShardIndex:
    beside = shard.with_name(f"{shard.name}.index.json")
    try:
        status = shard.stat()
        stamp = {"format": _FORMAT, "name": shard.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        document = _read_kept(beside, stamp)
        if document is None:
            with shard.open("rb", buffering=0) as file:
                document = _to_document(stamp, scan(str(shard), file))
            _keep(beside, document)
    except OSError as error:
        raise ShardError(
            f"shard {shard} cannot be read ({error.strerror}); check the path, or make the data"
        ) from error
    entries, fingerprint = _parse(document, str(shard))
    return ShardIndex(str(shard), shard.name, entries, fingerprint)


def _load_remote(url: str, cache: ShardCache) -> ShardIndex:
    remote = find_remote(url)
    cached = CachedShard(remote, cache)
    kept = cache.index_path(remote)
    stamp = {"format": _FORMAT, "name": remote.name, "size": remote.size}
    document = _read_kept(kept, stamp)
    if document is None:
        document = _read_beside(url, stamp)
        if document is None:
            with cached.open() as file:
                document = _to_document(stamp, scan(url, file))
        _keep(kept, document)
    entries, fingerprint = _parse(document, url)
    return ShardIndex(url, remote.name, entries, fingerprint, cached)


def _to_document(stamp: dict[str, Any], samples: Iterable[ScannedSample]) -> bytes:
    """The index file: JSON with a line for its head and one for every sample."""
    entries = [_entry(sample) for sample in samples]
    rows = ",\n".join(map(json.dumps, entries)).encode() + b"\n"
    places = json.dumps([stamp["name"], [[entry.key, entry.members] for entry in entries]])
    head = {
        "stamp": stamp,
        "fingerprint": hashlib.sha256(places.encode()).hexdigest(),
        "rows_sha256": hashlib.sha256(rows).hexdigest(),
    }
    return json.dumps(head).encode().removesuffix(b"}") + b', "samples": [\n' + rows + b"]}\n"


def _parse(document: bytes, shard: str) -> tuple[IndexEntries, str]:
    return IndexEntries(shard, document[document.index(b"\n") + 1 : -len(b"]}\n")]), _head(document)["fingerprint"]


def _head(document: bytes) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(document.partition(b"\n")[0] + b"]}")
    return head


def _checked(document: bytes, where: str, stamp: dict[str, Any]) -> bytes | None:
    """The index if it is whole and of this shard, else None."""
    try:
        head = _head(document)
        rows = document[document.index(b"\n") + 1 : -len(b"]}\n")]
        if any(head["stamp"].get(name) != value for name, value in stamp.items()):
            return None
        if hashlib.sha256(rows).hexdigest() != head["rows_sha256"] or not isinstance(head["fingerprint"], str):
            raise ValueError("its rows are not those that were written")
        return document
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("index %s cannot be used (%s: %s); it is made again", where, type(error).__name__, error)
        return None


def _read_kept(path: Path, stamp: dict[str, Any]) -> bytes | None:
    try:
        return _checked(path.read_bytes(), str(path), stamp)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("index %s cannot be read (%s); it is made again", path, error)
        return None


def _read_beside(url: str, stamp: dict[str, Any]) -> bytes | None:
    place, mark, signature = url.partition("?")
    beside = f"{place}.index.json{mark}{signature}"
    try:
        return _checked(read_remote(beside), beside, stamp)
    except MissingFileError:
        return None


def _keep(path: Path, document: bytes) -> None:
    # Several ranks may do this at once: each writes its own file, and the rename is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(document)
        temporary.replace(path)
    except OSError as error:
        _log.info("index %s cannot be kept (%s); it is made again at every start", path, error)


def _entry(sample: ScannedSample) -> IndexEntry:
    if sample.record is None:
        return IndexEntry(sample.key, sample.members, 0, {}, sample.problem)
    conversations = sample.record.conversations
    lengths = tuple(sum(len(turn.content) for turn in conversation.turns) for conversation in conversations)
    return IndexEntry(sample.key, sample.members, len(conversations), sample.record.meta, None, lengths)


def _checked_members(listed: dict[str, list[int]], problem: str | None) -> Members:
    members = {}
    for ending, (offset, size) in listed.items():
        if ending not in ALLOWED_ENDINGS or int(offset) < 0 or int(size) < 0:
            raise ValueError(f"no member {ending!r} can lie at {offset}, {size} bytes long")
        members[ending] = (offset, size)
    if problem is None and members["json"][1] > MAX_JSON_BYTES:
        raise ValueError(f"its JSON has more than {MAX_JSON_BYTES} bytes")
    return members
