"""What stays on the disk of uploaded files."""

import errno
import io
from pathlib import Path

import pytest

from membridge.serving.stored_files import FileStore


class FullDisk(io.BytesIO):
    """Content that can be copied to a part only."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().read(4)


def test_nothing_stays_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_bytes=10_000, seconds=60)
    with store.reserve(100), pytest.raises(OSError, match="no space left"):
        store.add(FullDisk(b"content"), "a.mp4", "user_data")
    assert (list(tmp_path.iterdir()), store.used_bytes, store.files()) == ([], 0, [])
    with store.reserve(100):
        stored = store.add(io.BytesIO(b"content"), "a.mp4", "user_data")
    assert [each.name for each in tmp_path.iterdir()] == [stored.id]
