"""Local copies of remote shards, in a folder of bounded size that all processes of a machine share.

A shard is fetched whole when it is first read and stays until others need its room, the longest unused one going
first. Whatever happens to a process, a file in ``shards/`` is whole: it is fetched in ``fetching/`` and renamed. One
process fetches a shard, the others wait for it. A remote shard that changed has another name here, so it is fetched
again. Indexes of shards are small and stay. The folder may be removed whenever no run uses it.

Files are guarded by locks: a shard's own, held while it is fetched and opened, and the folder's, held while room is
made. Only an unlocked shard is removed, so every process gets to open what it fetched, however small the folder. A
removed shard stays readable to those who have it open.
"""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from datamodules.errors import ShardError
from datamodules.shards.storage import RemoteFile, download

_WAIT_S = 0.2


@dataclass(frozen=True)
class ShardCache:
    """Where local copies of remote shards are kept. Local shards are read where they are.

    Args:
        folder: A folder on a disk of this machine, not a network disk. None = ``shards`` in the folder that the
            environment variable ``MEMBRIDGE_CACHE`` names, else in ``~/.cache/membridge``.
        max_gigabytes: Most that the shards in it may take (10^9 bytes); below the shards that all worker processes of
            a machine read from at a time, they are fetched again and again.

    Raises:
        ValueError: The bound is not positive.
    """

    folder: str | None = None
    max_gigabytes: float = 50.0

    def __post_init__(self) -> None:
        if not self.max_gigabytes > 0:
            raise ValueError(f"the shard cache's max_gigabytes must be positive, got {self.max_gigabytes}")

    def open(self, remote: RemoteFile) -> io.FileIO:
        """Open a shard's local copy, fetching it where it is not there.

        Raises:
            ShardError: It cannot be fetched, is larger than the whole cache, or the folder cannot be written.
        """
        path = self.path(remote)
        try:
            file = io.FileIO(path)
        except (FileNotFoundError, NotADirectoryError):
            with self._lock(remote):
                if not path.exists():
                    self._fetch(remote)
                file = io.FileIO(path)
        os.utime(file.fileno())  # the last use
        return file

    def path(self, remote: RemoteFile) -> Path:
        """Where a shard's copy is while it is there."""
        return self._place("shards", _local_name(remote))

    def index_path(self, remote: RemoteFile) -> Path:
        """Where a shard's index is kept."""
        return self._place("indexes", f"{_local_name(remote)}.index.json")

    def _place(self, *names: str) -> Path:
        default = Path(os.environ.get("MEMBRIDGE_CACHE") or "~/.cache/membridge", "shards")
        return Path(self.folder or default).expanduser().joinpath(*names)

    @contextlib.contextmanager
    def _lock(self, remote: RemoteFile) -> Iterator[None]:
        try:
            for name in ("shards", "fetching", "locks", "indexes"):
                self._place(name).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock_path(_local_name(remote)))
            lock.acquire()
        except OSError as error:
            raise ShardError(
                f"the shard cache {self._place()} cannot be written ({error}); give its setting 'folder', or the "
                "environment variable MEMBRIDGE_CACHE, a folder on a local disk"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _lock_path(self, local_name: str) -> Path:
        return self._place("locks", f"{local_name}.lock")

    def _folder_lock(self) -> FileLock:
        return FileLock(self._place("locks", "folder.lock"))

    def _fetch(self, remote: RemoteFile) -> None:
        """Fetch a shard whose lock is held."""
        unfinished = self._place("fetching", f"{_local_name(remote)}.{remote.size}")
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        bound = int(self.max_gigabytes * 1e9)
        if remote.size > bound:
            raise ShardError(
                f"{remote.url} has {remote.size / 1e9:.3g} GB, but the shard cache holds only {self.max_gigabytes:g}; "
                "raise its setting max_gigabytes to some shards for every worker process, or write smaller shards"
            )
        while not self._reserve(unfinished, remote.size, bound):
            time.sleep(_WAIT_S)  # others are fetching; what they fetched can be removed once they opened it
        try:
            download(remote, unfinished)
            with self._folder_lock():  # so that it is counted once while others count
                unfinished.replace(self.path(remote))
        finally:
            unfinished.unlink(missing_ok=True)

    def _reserve(self, unfinished: Path, size: int, bound: int) -> bool:
        """Make room for a shard by removing the longest unused ones, and take it; False where too many are in use."""
        with self._folder_lock():
            kept = sorted([*_kept(self._place("shards")), *_kept(self._place("fetching"))])
            used = sum(file.size for file in kept)
            for file in kept:
                if used + size <= bound:
                    break
                if self._remove(file):
                    used -= file.size
            if used + size > bound:
                return False
            unfinished.touch()
            return True

    def _remove(self, file: "_Kept") -> bool:
        try:
            with FileLock(self._lock_path(file.local_name)).acquire(timeout=0):
                file.path.unlink(missing_ok=True)
                return True
        except Timeout:
            return False


class CachedShard(NamedTuple):
    """A remote shard and the cache that it is read through. It crosses process borders."""

    remote: RemoteFile
    cache: ShardCache

    @property
    def path(self) -> Path:
        """Where the local copy is while it is there."""
        return self.cache.path(self.remote)

    def open(self) -> io.FileIO:
        """Open the local copy, fetching it where it is not there.

        Raises:
            ShardError: It cannot be fetched.
        """
        return self.cache.open(self.remote)


class _Kept(NamedTuple):
    """A file that takes room; the longest unused sorts first."""

    last_use_ns: int
    size: int
    path: Path
    local_name: str


def _kept(folder: Path) -> Iterator[_Kept]:
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # a download that just failed
            status = entry.stat()
            name, size = entry.name, status.st_size
            if folder.name == "fetching":  # what is not there yet has its room already
                name, _, whole = entry.name.rpartition(".")
                size = int(whole)
            yield _Kept(status.st_mtime_ns, size, Path(entry.path), name)


def _local_name(remote: RemoteFile) -> str:
    identity = hashlib.sha256(repr(tuple(remote)).encode()).hexdigest()[:24]
    return f"{identity}-{remote.name[-48:]}"
