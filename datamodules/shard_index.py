"""The index of a tar shard: where every member lies, found by one pass over the tar's headers.

The pass also reads each sample's JSON (not its media), so that lengths are known before anything is decoded and a
wrong sample is known before training starts. The result is kept beside a local shard as ``<shard>.index.json`` and
made again when the shard's size or time of change differs.

The index of a remote shard is taken from the same place beside it if it is there and of the shard's size, so upload
both: otherwise the whole shard is fetched for the pass. It is then kept in the cache.
"""

import glob
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from braceexpand import braceexpand

from datamodules.errors import ShardError
from datamodules.schema import ALLOWED_ENDINGS, FEATURE_ENDINGS, IMAGE_ENDINGS, MEDIA_ENDINGS, VIDEO_ENDINGS
from datamodules.shard_cache import CachedShard, ShardCache
from datamodules.shard_scan import Members, ScannedSample, scan
from datamodules.storage import MissingFileError, RemoteFile, find_remote, is_remote, list_remote, read_remote

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
        for name, endings in (("video", VIDEO_ENDINGS), ("image", IMAGE_ENDINGS), ("features", FEATURE_ENDINGS)):
            if ending in endings:
                return name
        return "text"

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


class ShardIndex(NamedTuple):
    """All samples of one shard, in the tar's order."""

    url: str  # or a local path
    name: str  # without the folder
    entries: Sequence[IndexEntry]
    fingerprint: str  # of names, places and sizes; equal for a copy in another folder or store
    cached: CachedShard | None = None  # how a remote shard is read


def find_shards(patterns: str | Sequence[str]) -> list[str]:
    """List the shards that are meant, sorted within each pattern.

    A pattern is a path or url, a folder or a url that ends with ``/`` (its ``*.tar``), a glob pattern, or one with
    braces as WebDataset writes it: ``https://host/train-{000000..000012}.tar``. Web servers that show no list of their
    files need braces.

    Returns:
        Local paths and urls.

    Raises:
        ShardError: A pattern names nothing, cannot be listed, or is a command. A source that is silently empty would
            train on less than was asked.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for name in _expand_braces(pattern):
            found.update(dict.fromkeys(_find_remote(name) if is_remote(name) else _find_local(name)))
    return list(found)


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
    if is_remote(url):
        cached = CachedShard(find_remote(url), cache)
        return _index(url, cached.remote.name, _load_remote(cached), cached)
    path = Path(shard)
    return _index(url, path.name, _load_local(path), None)


def _index(url: str, name: str, entries: Sequence[IndexEntry], cached: CachedShard | None) -> ShardIndex:
    places = json.dumps([name, [[entry.key, entry.members] for entry in entries]])
    return ShardIndex(url, name, entries, hashlib.sha256(places.encode()).hexdigest(), cached)


def _load_local(shard: Path) -> Sequence[IndexEntry]:
    beside = shard.with_name(f"{shard.name}.index.json")
    try:
        status = shard.stat()
        stamp = {"format": _FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        entries = _read_kept(beside, stamp)
        if entries is None:
            with shard.open("rb", buffering=0) as file:
                entries = [_entry(sample) for sample in scan(str(shard), file)]
            _keep(beside, stamp, entries)
    except OSError as error:
        raise ShardError(
            f"shard {shard} cannot be read ({error.strerror}); check the path, or make the data"
        ) from error
    return entries


def _load_remote(cached: CachedShard) -> Sequence[IndexEntry]:
    remote = cached.remote
    kept = cached.cache.index_path(remote)
    stamp = {"format": _FORMAT, "size": remote.size}
    entries = _read_kept(kept, stamp) or _read_beside(remote, stamp)
    if entries is None:
        with cached.open() as file:
            entries = [_entry(sample) for sample in scan(remote.url, file)]
    if not kept.exists():
        _keep(kept, stamp, entries)
    return entries


def _read_kept(path: Path, stamp: dict[str, int]) -> Sequence[IndexEntry] | None:
    try:
        return _parse(path.read_bytes(), str(path), stamp)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("index %s cannot be read (%s); it is made again", path, error)
        return None


def _read_beside(remote: RemoteFile, stamp: dict[str, int]) -> Sequence[IndexEntry] | None:
    place, mark, signature = remote.url.partition("?")
    url = f"{place}.index.json{mark}{signature}"
    try:
        return _parse(read_remote(url), url, stamp)
    except MissingFileError:
        return None


def _parse(data: bytes, where: str, stamp: dict[str, int]) -> Sequence[IndexEntry] | None:
    """The entries; None where they are of another shard, or cannot be understood."""
    try:
        document = json.loads(data)
        if any(document["stamp"].get(name) != value for name, value in stamp.items()):
            return None
        return [_checked(IndexEntry(*row), stamp["size"]) for row in document["samples"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("index %s cannot be used (%s: %s); it is made again", where, type(error).__name__, error)
        return None


def _checked(entry: IndexEntry, shard_size: int) -> IndexEntry:
    """What JSON made lists is made tuples again. An index lies beside a shard, so it is trusted as little."""
    members: Any = entry.members
    for ending, (offset, size) in members.items():
        if ending not in ALLOWED_ENDINGS or not 0 <= int(offset) <= int(offset) + int(size) <= shard_size:
            raise ValueError(f"key {entry.key!r}: no member {ending!r} can lie at {offset}, {size} bytes long")
    return entry._replace(
        members={ending: (offset, size) for ending, (offset, size) in members.items()},
        text_lengths=tuple(entry.text_lengths),
    )


def _keep(path: Path, stamp: dict[str, int], entries: Sequence[IndexEntry]) -> None:
    # Several ranks may do this at once: each writes its own file, and the rename is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"stamp": stamp, "samples": entries}), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.info("index %s cannot be kept (%s); it is made again at every start", path, error)


def _entry(sample: ScannedSample) -> IndexEntry:
    if sample.record is None:
        return IndexEntry(sample.key, sample.members, 0, {}, sample.problem)
    conversations = sample.record.conversations
    lengths = tuple(sum(len(turn.content) for turn in conversation.turns) for conversation in conversations)
    return IndexEntry(sample.key, sample.members, len(conversations), sample.record.meta, None, lengths)


def _expand_braces(pattern: str) -> list[str]:
    if pattern.startswith("pipe:"):
        raise ShardError(f"shard {pattern!r} is refused: shards are read from paths and urls, no commands are run")
    if Path(pattern).exists():
        return [pattern]  # a path with braces in it
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise ShardError(f"shard pattern {pattern!r} has a brace without its counterpart") from error


def _find_local(pattern: str) -> list[str]:
    path = Path(pattern.removeprefix("file://").removeprefix("local://"))
    place = str(path / "*.tar") if path.is_dir() else str(path)
    matches = [place] if path.is_file() else sorted(glob.glob(place))
    if not matches:
        raise ShardError(f"no shard matches {place!r} (seen from {Path.cwd()}); check the path, or make the data")
    return matches


def _find_remote(pattern: str) -> list[str]:
    place = f"{pattern}*.tar" if pattern.endswith("/") else pattern
    if not any(letter in place for letter in "*["):
        return [place]  # whether it is there shows when its index is read, which asks the store anyway
    matches = list_remote(place)
    if not matches:
        raise ShardError(
            f"no shard matches {place!r}; check the url and the credentials. A web server that shows no list of its "
            "files cannot be searched: name them with braces, such as train-{000000..000012}.tar"
        )
    return matches
