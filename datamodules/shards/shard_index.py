"""The index of a tar shard: where every member lies, found by one pass over the tar's headers.

The pass also reads each sample's JSON (not its media), so that lengths are known before anything is decoded and a
wrong sample is known before training starts. The result is kept beside a local shard as ``<shard>.index.json`` and
made again when the shard's size or time of change differs.

The index of a remote shard is taken from the same place beside it if it is there and tells the shard's name and size,
so upload both, and both again after a change: without an index the whole shard is fetched for the pass. It is then kept
in the cache.
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
    place = _locate(str(shard), cache)
    document = _read_kept(place)
    if document is None:
        document = _read_beside(place) or IndexDocument.write(place.stamp, _scan(place))
        _keep(place.kept, document)
    return _to_index(place, document)


def make_index(
    shard: str | Path,
    cache: ShardCache = ShardCache(),  # noqa: B008  frozen
    folder: Path | None = None,
) -> tuple[ShardIndex, list[ScannedSample]]:
    """Make a shard's index anew, whatever is kept of it.

    Args:
        shard: Path or url.
        cache: Where local copies of remote shards are kept.
        folder: Where to write the index; None = beside a local shard, or in the cache.

    Returns:
        The index, and the samples that it was made from, in the same order.

    Raises:
        ShardError: As ``load_index``.
    """
    place = _locate(str(shard), cache)
    samples = _scan(place)
    document = IndexDocument.write(place.stamp, samples)
    _keep(place.kept if folder is None else folder / f"{place.name}.index.json", document)
    return _to_index(place, document), samples


class _Place(NamedTuple):
    """Where a shard and its index lie."""

    url: str
    name: str
    stamp: dict[str, Any]  # what an index must tell to be this shard's
    kept: Path
    cached: CachedShard | None


def _locate(url: str, cache: ShardCache) -> _Place:
    stamp: dict[str, Any] = {"format": _FORMAT}
    if is_remote(url):
        remote = find_remote(url)
        stamp |= {"name": remote.name, "size": remote.size}
        return _Place(url, remote.name, stamp, cache.index_path(remote), CachedShard(remote, cache))
    path = Path(url)
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"shard {path} cannot be read ({error.strerror}); check the path, or make the data") from error
    stamp |= {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return _Place(url, path.name, stamp, path.with_name(f"{path.name}.index.json"), None)


def _scan(place: _Place) -> list[ScannedSample]:
    try:
        with io.FileIO(place.url) if place.cached is None else place.cached.open() as file:
            return list(scan(place.url, file))
    except OSError as error:
        raise ShardError(f"shard {place.url} cannot be read ({error.strerror}); is its disk still there?") from error


def _to_index(place: _Place, document: IndexDocument) -> ShardIndex:
    entries = IndexEntries(place.url, document.rows)
    return ShardIndex(place.url, place.name, entries, document.head["fingerprint"], place.cached)


def _read_kept(place: _Place) -> IndexDocument | None:
    try:
        return _parse(place.kept.read_bytes(), str(place.kept), place.stamp)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("index %s cannot be read (%s); it is made again", place.kept, error)
        return None


def _read_beside(place: _Place) -> IndexDocument | None:
    if place.cached is None:
        return None
    path, mark, signature = place.url.partition("?")
    beside = f"{path}.index.json{mark}{signature}"
    try:
        return _parse(read_remote(beside), beside, place.stamp)
    except MissingFileError:
        return None


def _parse(data: bytes, where: str, stamp: dict[str, Any]) -> IndexDocument | None:
    try:
        return IndexDocument.read(data, stamp)
    except ValueError as error:
        _log.warning("index %s cannot be used (%s); it is made again", where, error)
        return None


def _keep(path: Path, document: IndexDocument) -> None:
    # Several ranks may do this at once: each writes its own file, and the rename is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(document.to_bytes())
        temporary.replace(path)
    except OSError as error:
        _log.info("index %s cannot be kept (%s); it is made again at every start", path, error)
