"""A stretch of a file reads like a file of its own."""

from pathlib import Path

import pytest

from datamodules.errors import ShardError
from datamodules.shards.media_range import MediaRange


def test_window_reads_like_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"before0123456789after")
    place = MediaRange(path, 6, 10)
    assert place.read() == b"0123456789"
    with place.open() as file:
        assert file.read(3) == b"012"
        assert file.seek(-2, 2) == 8
        assert file.read() == b"89"
        assert file.read(5) == b""
        file.seek(4)
        assert (file.read(1), file.tell()) == (b"4", 5)
        with pytest.raises(ValueError, match="before the first byte"):
            file.seek(-30, 1)


def test_file_that_shrank_or_went_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"0123")
    with pytest.raises(ShardError, match="ends before byte 9"):
        MediaRange(path, 2, 7).read()
    with pytest.raises(ShardError, match="cannot be read"):
        MediaRange(tmp_path / "gone.tar", 0, 1).read()
