"""The index of a tar shard: the position of every member, found by one pass over the tar's headers.

The pass also reads each sample's JSON, but not its media. So lengths are known before anything is decoded, and wrong
samples before training starts. The index of a local shard is stored beside it as ``<shard>.index.json``. It is made
again when the shard's size or modification time differs.

A remote shard should have its index beside it too; upload both again after a change. The index is used if it states the
shard's name and size. Without one the complete shard is downloaded to make it. The index is then stored in the cache.
"""

import io
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import ShardError
from datamodules.shards.index_entries import IndexDocument, IndexEntries
from datamodules.shards.shard_cache import CachedShard, ShardCache
from datamodules.shards.shard_scan import ScannedSample, scan
from datamodules.shards.storage import MissingFileError, find_remote, is_remote, read_remote

_log = logging.getLogger(__name__)

_FORMAT = 2


class ShardIndex(NamedTuple):
    """One shard and its samples."""

    url: str  # or a local path
    name: str  # without the folder
    entries: IndexEntries
    fingerprint: str  # of members' names, positions and sizes; equal for a copy in another folder or store
    cached: CachedShard | None = None  # how a remote shard is read


def load_index(shard: str | Path, cache: ShardCache = ShardCache()) -> ShardIndex:  # noqa: B008  frozen
    """Read the stored index of a shard, or make it and store it if the folder can be written.

    Args:
        shard: Path or url.
        cache: Where local copies of remote shards are stored.

    Raises:
        ShardError: The shard is missing, empty, truncated or compressed, has a member that is refused, or is remote
            and cannot be downloaded.
    """
    location = _locate(str(shard), cache)
    document = _read_stored(location)
    if document is None:
        document = _read_beside(location) or IndexDocument.write(location.stamp, _scan(location))
        _store(location.index_file, document)
    return _to_index(location, document)


def make_index(
    shard: str | Path,
    cache: ShardCache = ShardCache(),  # noqa: B008  frozen
    folder: Path | None = None,
) -> tuple[ShardIndex, list[ScannedSample]]:
    """Make a shard's index, even if one is stored.

    Args:
        shard: Path or url.
        cache: Where local copies of remote shards are stored.
        folder: Where to write the index; None = beside a local shard, or in the cache.

    Returns:
        The index, and the samples that it was made from, in the same order.

    Raises:
        ShardError: As ``load_index``.
    """
    location = _locate(str(shard), cache)
    samples = _scan(location)
    document = IndexDocument.write(location.stamp, samples)
    _store(location.index_file if folder is None else folder / f"{location.name}.index.json", document)
    return _to_index(location, document), samples


class _Location(NamedTuple):
    """Where a shard and its index are."""

    url: str
    name: str
    stamp: dict[str, Any]  # what the index must state to belong to this shard
    index_file: Path
    cached: CachedShard | None


def _locate(url: str, cache: ShardCache) -> _Location:
    stamp: dict[str, Any] = {"format": _FORMAT}
    if is_remote(url):
        remote = find_remote(url)
        stamp |= {"name": remote.name, "size": remote.size}
        return _Location(url, remote.name, stamp, cache.index_path(remote), CachedShard(remote, cache))
    path = Path(url)
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"shard {path} cannot be read ({error.strerror}); check the path, or make the data") from error
    stamp |= {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return _Location(url, path.name, stamp, path.with_name(f"{path.name}.index.json"), None)


def _scan(location: _Location) -> list[ScannedSample]:
    try:
        with io.FileIO(location.url) if location.cached is None else location.cached.open() as file:
            return list(scan(location.url, file))
    except OSError as error:
        raise ShardError(f"shard {location.url} cannot be read ({error.strerror}); is its disk still there?") from error


def _to_index(location: _Location, document: IndexDocument) -> ShardIndex:
    entries = IndexEntries(location.url, document.rows)
    return ShardIndex(location.url, location.name, entries, document.head["fingerprint"], location.cached)


def _read_stored(location: _Location) -> IndexDocument | None:
    try:
        return _parse(location.index_file.read_bytes(), str(location.index_file), location.stamp)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("index %s cannot be read (%s); it is made again", location.index_file, error)
        return None


def _read_beside(location: _Location) -> IndexDocument | None:
    if location.cached is None:
        return None
    path, mark, signature = location.url.partition("?")
    beside = f"{path}.index.json{mark}{signature}"
    try:
        return _parse(read_remote(beside), beside, location.stamp)
    except MissingFileError:
        return None


def _parse(data: bytes, where: str, stamp: dict[str, Any]) -> IndexDocument | None:
    try:
        return IndexDocument.read(data, stamp)
    except ValueError as error:
        _log.warning("index %s cannot be used (%s); it is made again", where, error)
        return None


def _store(path: Path, document: IndexDocument) -> None:
    # Several ranks may do this at once: each writes its own file, and the rename is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(document.to_bytes())
        temporary.replace(path)
    except OSError as error:
        _log.info("index %s cannot be stored (%s); it is made again at every start", path, error)
