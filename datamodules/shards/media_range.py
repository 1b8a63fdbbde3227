"""The position of a sample's media in a local file. It is sent between processes instead of the bytes."""

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datamodules.errors import ShardError
from datamodules.shards.shard_cache import CachedShard


class MediaRange(NamedTuple):
    """A range of bytes in a local file, such as one member of a tar shard.

    Use ``read`` or ``open``: if the local copy of a remote shard was removed, they download it again.
    """

    path: Path
    offset: int
    size: int
    cached: CachedShard | None = None  # set if the file is the local copy of a remote shard

    def read(self) -> bytes:
        """All bytes.

        Raises:
            ShardError: The file is gone or shorter than it was when it was indexed, or cannot be downloaded.
        """
        with self.open() as file:
            return file.read()

    def open(self) -> BinaryIO:
        """A file object of these bytes, for decoders that seek: a long video need not fit into memory.

        Raises:
            ShardError: The file cannot be opened or downloaded, or is shorter than it was when it was indexed.
        """
        return io.BufferedReader(_Window(self.open_file(), self))

    def open_file(self) -> io.FileIO:
        """Open the file that contains the bytes.

        Raises:
            ShardError: The file cannot be opened or downloaded, or is shorter than it was when it was indexed.
        """
        try:
            file = io.FileIO(self.path) if self.cached is None else self.cached.open()
        except OSError as error:
            raise ShardError(f"{self.path} cannot be read ({error.strerror}); is its disk still there?") from error
        if os.fstat(file.fileno()).st_size < self.offset + self.size:
            file.close()
            raise ShardError(
                f"{self.path} ends before byte {self.offset + self.size}; it changed since it was indexed: copy it "
                "again, or remove the index beside it if the change was intended"
            )
        return file


class _Window(io.RawIOBase):
    """File object of a part of a file: ``size`` bytes from ``offset`` on."""

    def __init__(self, file: io.FileIO, part: MediaRange) -> None:
        self._file = file
        self._part = part
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._part.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the first byte")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        wanted = min(len(buffer), self._part.size - self._position)
        if wanted <= 0:
            return 0
        self._file.seek(self._part.offset + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
