"""Local copies of remote shards, in a folder of limited size that all processes of a machine share.

A shard is downloaded completely when it is first read. When space is needed, the least recently used shard is removed.
Downloads go to ``fetching/`` and are renamed at the end, so a file in ``shards/`` is complete even if a process is
killed. One process downloads a shard while the others wait for it. A remote shard that changed gets another name here,
so it is downloaded again. Indexes are small and stay. The folder may be removed when no run uses it.

Each shard has a lock, held while it is downloaded and opened. The folder has one too, held while space is made. Only an
unlocked shard is removed, so every process can open what it downloaded, even in a small folder. Processes that have a
removed shard open can still read it.
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
    """Where local copies of remote shards are stored. Local shards are not copied.

    Args:
        folder: A folder on a disk of this machine, not a network disk. None = ``shards`` in the folder that the
            environment variable ``MEMBRIDGE_CACHE`` names, else in ``~/.cache/membridge``.
        max_gigabytes: Most space for shards (10^9 bytes). It should hold the shards that all worker processes of a
            machine read at the same time; otherwise shards are downloaded again and again.

    Raises:
        ValueError: The limit is not positive.
    """

    folder: str | None = None
    max_gigabytes: float = 50.0

    def __post_init__(self) -> None:
        if not self.max_gigabytes > 0:
            raise ValueError(f"the shard cache's max_gigabytes must be positive, got {self.max_gigabytes}")

    def open(self, remote: RemoteFile) -> io.FileIO:
        """Open a shard's local copy; download it first if needed.

        Raises:
            ShardError: It cannot be downloaded, is larger than the cache, or the folder cannot be written.
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
        """Path of a shard's local copy, which need not exist."""
        return self._path_of("shards", _local_name(remote))

    def index_path(self, remote: RemoteFile) -> Path:
        """Path of a shard's stored index."""
        return self._path_of("indexes", f"{_local_name(remote)}.index.json")

    def _path_of(self, *names: str) -> Path:
        default = Path(os.environ.get("MEMBRIDGE_CACHE") or "~/.cache/membridge", "shards")
        return Path(self.folder or default).expanduser().joinpath(*names)

    @contextlib.contextmanager
    def _lock(self, remote: RemoteFile) -> Iterator[None]:
        try:
            for name in ("shards", "fetching", "locks", "indexes"):
                self._path_of(name).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock_path(_local_name(remote)))
            lock.acquire()
        except OSError as error:
            raise ShardError(
                f"the shard cache {self._path_of()} cannot be written ({error}); give its setting 'folder', or the "
                "environment variable MEMBRIDGE_CACHE, a folder on a local disk"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _lock_path(self, local_name: str) -> Path:
        return self._path_of("locks", f"{local_name}.lock")

    def _folder_lock(self) -> FileLock:
        return FileLock(self._path_of("locks", "folder.lock"))

    def _fetch(self, remote: RemoteFile) -> None:
        """Download a shard. The caller holds its lock."""
        unfinished = self._path_of("fetching", f"{_local_name(remote)}.{remote.size}")
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        bound = int(self.max_gigabytes * 1e9)
        if remote.size > bound:
            raise ShardError(
                f"{remote.url} has {remote.size / 1e9:.3g} GB, but the shard cache holds only {self.max_gigabytes:g}; "
                "raise its setting max_gigabytes to some shards for every worker process, or write smaller shards"
            )
        while not self._reserve(unfinished, remote.size, bound):
            time.sleep(_WAIT_S)  # other downloads are running; their shards can be removed once they are opened
        try:
            download(remote, unfinished)
            with self._folder_lock():  # so that other processes, which add up sizes, count it once
                unfinished.replace(self.path(remote))
        finally:
            unfinished.unlink(missing_ok=True)

    def _reserve(self, unfinished: Path, size: int, bound: int) -> bool:
        """Reserve space for a shard, removing the least recently used ones; False if too many are in use."""
        with self._folder_lock():
            stored = sorted([*_stored(self._path_of("shards")), *_stored(self._path_of("fetching"))])
            used = sum(file.size for file in stored)
            for file in stored:
                if used + size <= bound:
                    break
                if self._remove(file):
                    used -= file.size
            if used + size > bound:
                return False
            unfinished.touch()
            return True

    def _remove(self, file: "_StoredFile") -> bool:
        try:
            with FileLock(self._lock_path(file.local_name)).acquire(timeout=0):
                file.path.unlink(missing_ok=True)
                return True
        except Timeout:
            return False


class CachedShard(NamedTuple):
    """A remote shard and the cache for its local copy. It can be sent between processes."""

    remote: RemoteFile
    cache: ShardCache

    @property
    def path(self) -> Path:
        """Path of the local copy, which need not exist."""
        return self.cache.path(self.remote)

    def open(self) -> io.FileIO:
        """Open the local copy; download it first if needed.

        Raises:
            ShardError: It cannot be downloaded.
        """
        return self.cache.open(self.remote)


class _StoredFile(NamedTuple):
    """A file of the cache. The least recently used sorts first."""

    last_use_ns: int
    size: int
    path: Path
    local_name: str


def _stored(folder: Path) -> Iterator[_StoredFile]:
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # a download that just failed
            status = entry.stat()
            name, size = entry.name, status.st_size
            if folder.name == "fetching":  # the space of a running download is reserved already
                name, _, final_size = entry.name.rpartition(".")
                size = int(final_size)
            yield _StoredFile(status.st_mtime_ns, size, Path(entry.path), name)


def _local_name(remote: RemoteFile) -> str:
    identity = hashlib.sha256(repr(tuple(remote)).encode()).hexdigest()[:24]
    return f"{identity}-{remote.name[-48:]}"
