from pathlib import Path

import pytest

from datamodules.errors import SampleError
from datamodules.shards.shard_writer import ShardWriter
from tests.fixtures_data import make_clip, make_record


def test_a_file_is_stored_like_its_bytes(tmp_path: Path) -> None:
    clip = make_clip(3)
    (tmp_path / "clip.mp4").write_bytes(clip)
    for name, media in (("bytes", clip), ("file", tmp_path / "clip.mp4")):
        with ShardWriter(tmp_path / name) as writer:
            writer.write("a", make_record(), media, "mp4")
    assert (tmp_path / "bytes-000000.tar").read_bytes() == (tmp_path / "file-000000.tar").read_bytes()


def test_a_missing_file_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), ShardWriter(tmp_path / "shard") as writer:
        writer.write("a", make_record(), tmp_path / "none.mp4", "mp4")
    assert list(tmp_path.iterdir()) == []


def test_numbering_goes_on_where_it_is_told_to(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard", max_samples=1, first_number=7) as writer:
        numbers = []
        for key in ("a", "b"):
            writer.write(key, make_record(media=False))
            numbers.append(writer.next_number)
    assert numbers == [7, 8]
    assert [path.name for path in writer.paths] == ["shard-000007.tar", "shard-000008.tar"]


def test_a_record_that_the_reader_would_refuse_for_its_size_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.shards.shard_writer.MAX_JSON_BYTES", 100)
    with pytest.raises(SampleError, match="more than the 100 that are read"), ShardWriter(tmp_path / "shard") as writer:
        writer.write("a", make_record(media=False))
    assert list(tmp_path.iterdir()) == []
