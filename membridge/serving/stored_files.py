"""Keeps uploaded files on disk, under a quota, until they were not used for some time."""

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from membridge.serving.api_errors import ApiError

_LEAST_BYTES = 4096  # many tiny files use up the quota too
_LONGEST_NAME = 255


@dataclass
class StoredFile:
    """An uploaded file."""

    id: str
    name: str  # as the client calls it; for messages only
    size: int
    purpose: str
    created: float  # seconds since 1970
    last_used: float  # of the monotonic clock


class FileStore:
    """Uploaded files in a folder. Safe for threads.

    Args:
        folder: An existing folder that is this store's alone.
        max_bytes: Disk space of all files and of all room that is reserved.
        seconds: A file is removed when it was not used for so long.
    """

    def __init__(self, folder: Path, max_bytes: int, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._max_bytes = max_bytes
        self._files: dict[str, StoredFile] = {}
        self._reserved = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Disk space of the files, and room that is reserved."""
        with self._lock:
            return self._used()

    def files(self) -> list[StoredFile]:
        """All files, in the order in which they came."""
        with self._lock:
            return list(self._files.values())

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserve room for a file that arrives.

        Raises:
            ApiError: There is not enough.
        """
        with self._lock:
            if self._used() + size > self._max_bytes:
                raise ApiError(
                    429,
                    f"the server has no room for a file of {size} bytes now; delete files that are no longer needed, "
                    "or try again later",
                    code="storage_full",
                )
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def add(self, content: BinaryIO, name: str, purpose: str) -> StoredFile:
        """Store a file for which room is reserved.

        Args:
            content: The file.
            name: What the client calls it.
            purpose: What the client says that it is for.

        Raises:
            OSError: It cannot be written, for example because the disk is full. Nothing of it stays.
        """
        identity = f"file-{secrets.token_hex(12)}"
        try:
            with self._path(identity).open("xb") as target:
                shutil.copyfileobj(content, target)
                size = target.tell()
        except BaseException:  # no quota counts it, and nothing would remove it
            self._path(identity).unlink(missing_ok=True)
            raise
        stored = StoredFile(identity, name[:_LONGEST_NAME], size, purpose, time.time(), time.monotonic())
        with self._lock:
            self._files[identity] = stored
        return stored

    def open(self, identity: str) -> tuple[StoredFile, BinaryIO]:
        """Open a file to read. It may be deleted while it is open.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            stored = self._found(identity)
            stored.last_used = time.monotonic()
            return stored, self._path(identity).open("rb")

    def get(self, identity: str) -> StoredFile:
        """A file by its id.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            return self._found(identity)

    def delete(self, identity: str) -> None:
        """Delete a file.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            self._found(identity)
            self._remove(identity)

    def remove_unused(self) -> None:
        """Delete the files that were not used for too long."""
        oldest = time.monotonic() - self.seconds
        with self._lock:
            for identity in [each.id for each in self._files.values() if each.last_used < oldest]:
                self._remove(identity)

    def document(self, stored: StoredFile) -> dict[str, Any]:
        """A file in OpenAI's form."""
        left = self.seconds - (time.monotonic() - stored.last_used)
        return {
            "id": stored.id,
            "object": "file",
            "bytes": stored.size,
            "created_at": int(stored.created),
            "expires_at": int(time.time() + left),
            "filename": stored.name,
            "purpose": stored.purpose,
            "status": "processed",
        }

    def _used(self) -> int:
        return self._reserved + sum(max(each.size, _LEAST_BYTES) for each in self._files.values())

    def _found(self, identity: str) -> StoredFile:
        stored = self._files.get(identity)
        if stored is None:
            raise ApiError(
                404,
                f"there is no file {identity[:64]!r}; upload it by POST /v1/files (files that are not used for "
                f"{self.seconds:.0f} s are removed)",
                code="file_not_found",
            )
        return stored

    def _remove(self, identity: str) -> None:
        del self._files[identity]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(identity))

    def _path(self, identity: str) -> Path:
        return self.folder / identity
