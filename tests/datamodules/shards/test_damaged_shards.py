"""Shards that are empty, cut off, damaged or hold wrong samples: each is named, with what to do."""

import json
import tarfile
from pathlib import Path

import pytest

from datamodules.errors import SampleError, ShardError
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.fixtures_data import make_record, make_samples, write_members, write_shard


def json_bytes(**extra: object) -> bytes:
    return json.dumps(make_record(media=False, **extra)).encode()


def reader(*paths: Path) -> ShardReader:
    return ShardReader([load_index(path) for path in paths])


@pytest.mark.parametrize("content", [b"", bytes(10240)])
def test_an_empty_shard_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"empty\.tar is empty"):
        load_index(path)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole.tar", make_samples(2)).read_bytes()
    end = len(whole.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    for length in [1, 100, 512, 700, *range(1024, end, 512), end - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ShardError, match=r"cut\.tar is truncated"):
            load_index(cut)


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(3))
    second = load_index(path).entries[1].members["mp4"][0] - 512
    data = bytearray(path.read_bytes())
    data[second + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ShardError, match="truncated or damaged"):
        load_index(path)


def test_a_compressed_shard_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.add(write_shard(tmp_path / "b.tar", make_samples(1)), "b.json")
    with pytest.raises(ShardError, match="Compressed tars are not read"):
        load_index(tmp_path / "a.tar")


def test_folders_inside_a_shard_are_fine(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("./clips")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        tar.add(write_members(tmp_path / "y.tar", [("a.json", json_bytes())]), "ignored.json")
    assert len(load_index(tmp_path / "x.tar").entries) == 1


@pytest.mark.parametrize("names", [["a.json", "b.json", "a.png"], ["a.json", "a.json"]], ids=["apart", "twice"])
def test_members_of_one_key_lie_side_by_side_once(tmp_path: Path, names: list[str]) -> None:
    path = write_members(tmp_path / "x.tar", [(name, json_bytes()) for name in names])
    with pytest.raises(ShardError, match="key 'a': its members are not next to each other"):
        load_index(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], "no JSON member; add a.json"),
        ([("a.json", b'{"source": "x", ')], r"malformed JSON: .*line 1 column 17"),
        ([("a.json", b"\xff\xfe")], "the JSON is not UTF-8"),
        ([("a.png", b"x"), ("a.mp4", b"x"), ("a.json", json_bytes())], r"several media members \(png, mp4\)"),
    ],
    ids=["no json", "malformed", "encoding", "two media"],
)
def test_a_wrong_sample_is_named_when_it_is_read(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    path = write_members(tmp_path / "x.tar", [("good.json", json_bytes()), *members])
    shards = reader(path)
    assert shards.read(0).key == "good"
    with pytest.raises(SampleError, match=rf"x\.tar, key 'a': {message}"):
        shards.read(1)


def test_a_shard_that_shrank_after_indexing_is_an_error(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(2))
    shards = reader(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ShardError, match="changed since it was indexed"):
        shards.read(1)
