import contextlib
import json
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset

from datamodules.errors import SampleError, ShardError
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import ShardReader
from datamodules.shards.shard_writer import ShardWriter
from tests.fixtures_data import make_clip, make_image, make_record, make_samples, write_shard

CLIP = make_clip(3)


def json_bytes(**extra: object) -> bytes:
    return json.dumps(make_record(media=False, **extra)).encode()


def reader(*paths: Path) -> ShardReader:
    return ShardReader([load_index(path) for path in paths])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_shard(
        tmp_path / "mixed.tar",
        [
            ("clips/video", make_record(meta={"num_frames": 3, "length": "1x"}), CLIP, "mp4"),
            ("picture", make_record([("what is it ?", "a star"), ("how many ?", "one")]), make_image(), "png"),
            ("text", make_record(media=False), None, None),
        ],
    )


def test_reader_gives_back_what_the_writer_was_given(mixed: Path) -> None:
    shards = reader(mixed)
    video, picture, text = (shards.read(index) for index in range(len(shards)))
    assert (video.key, video.media[0].ending) == ("clips/video", "mp4")
    assert video.media[0].content.read() == CLIP
    assert video.record.meta == {"num_frames": 3, "length": "1x"}
    assert [item.turns[-1].content for item in picture.record.conversations] == ["a star", "one"]
    assert text.media == ()
    assert [shards.entry(index).modality for index in range(3)] == ["video", "image", "text"]
    assert [shards.entry(index).num_frames for index in range(3)] == [3, 1, 0]
    assert [shards.entry(index).num_conversations for index in range(3)] == [1, 2, 1]


def test_index_tells_lengths_before_anything_is_decoded(mixed: Path, tmp_path: Path) -> None:
    shards = reader(mixed)
    assert [shards.entry(index).text_lengths for index in range(3)] == [
        (len("<video>\nwhich colour ?red"),),
        (len("<video>\nwhat is it ?a star"), len("<video>\nhow many ?one")),
        (len("which colour ?red"),),
    ]
    timed = [("a", make_record(media=False, meta={"duration_ms": 9000}), None, None), *make_samples(1)]
    entries = reader(write_shard(tmp_path / "timed.tar", timed)).entries()
    assert [entry.meta.get("duration_ms") for entry in entries] == [9000, None]


def test_samples_are_numbered_through_in_the_order_of_the_shards(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{start}.tar", make_samples(3, start=start)) for start in (0, 3)]
    shards = reader(*paths)
    assert [entry.key for entry in shards.entries()] == [f"sample{number:03d}" for number in range(6)]
    assert [shards.entry(index) for index in range(6)] == list(shards.entries())
    assert shards.where(4) == f"shard {paths[1]}, key 'sample004'"
    for index in (-1, 6):
        with pytest.raises(IndexError, match="there are 6 samples, so no number"):
            shards.entry(index)


def test_webdataset_itself_reads_our_shards(mixed: Path) -> None:
    theirs = list(webdataset.WebDataset(str(mixed), shardshuffle=False, empty_check=False))
    ours = reader(mixed)
    assert [sample["__key__"] for sample in theirs] == [ours.entry(index).key for index in range(3)]
    for index, sample in enumerate(theirs):
        raw = ours.read(index)
        members = {name for name in sample if not name.startswith("__")}
        assert members == {"json", *(medium.ending for medium in raw.media)}
        assert all(sample[medium.ending] == medium.content.read() for medium in raw.media)
        assert json.loads(sample["json"])["source"] == raw.record.source


def test_shards_that_webdataset_writes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "a", "png": make_image(), "json": make_record()})
    (picture,) = reader(path).read(0).media
    assert picture.content.read() == make_image()


def test_writer_splits_by_count_and_by_size(tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path / "count", max_samples=2) as by_count,
        ShardWriter(tmp_path / "size", max_bytes=1) as by_size,
    ):
        for key, record, media, ending in make_samples(3):
            by_count.write(key, record, media, ending)
            by_size.write(key, record, media, ending)
    assert [path.name for path in by_count.paths] == ["count-000000.tar", "count-000001.tar"]
    assert [len(reader(path)) for path in by_count.paths] == [2, 1]
    assert [len(reader(path)) for path in by_size.paths] == [1, 1, 1]


def test_an_interrupted_writer_leaves_no_shard(tmp_path: Path) -> None:
    key, record, media, ending = make_samples(1)[0]
    with contextlib.suppress(KeyboardInterrupt), ShardWriter(tmp_path / "cut") as writer:
        writer.write(key, record, media, ending)
        assert list(tmp_path.glob("*.tar")) == []
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    samples = make_samples(2)
    first, second = (write_shard(tmp_path / name, samples) for name in ("a.tar", "b.tar"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("key", ["", "a.b", "/a", "../a", "a/", "a/../b"])
def test_writer_refuses_keys_that_webdataset_would_read_otherwise(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cannot be a sample key"), ShardWriter(tmp_path / "x") as writer:
        writer.write(key, make_record(media=False))


def test_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "x") as writer:
        with pytest.raises(SampleError, match="no media member"):
            writer.write("a", make_record(media=True))
        with pytest.raises(ValueError, match="'exe' is not one of"):
            writer.write("a", make_record(), b"", "exe")
        writer.write("a", make_record(media=False))
        with pytest.raises(ValueError, match="twice"):
            writer.write("a", make_record(media=False))


def test_index_is_kept_and_made_again_when_the_shard_changes(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", make_samples(2))
    beside = tmp_path / "a.tar.index.json"
    first = load_index(path)
    made = beside.stat().st_mtime_ns
    again = load_index(path)
    assert (list(again.entries), again.fingerprint) == (list(first.entries), first.fingerprint)
    assert beside.stat().st_mtime_ns == made
    write_shard(path, make_samples(3))
    assert len(load_index(path).entries) == 3
    beside.write_text('{"stamp": ')
    assert len(load_index(path).entries) == 3
    assert json.loads(beside.read_text())["samples"]


def test_index_is_made_where_the_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    path = write_shard(tmp_path / "a.tar", make_samples(2))
    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert len(load_index(path).entries) == 2
    assert not (tmp_path / "a.tar.index.json").exists()


def test_fingerprint_follows_content_and_not_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    prints = [
        load_index(write_shard(tmp_path / name, make_samples(count))).fingerprint
        for name, count in (("a.tar", 2), ("other/a.tar", 2), ("b.tar", 2))
    ]
    longer = load_index(write_shard(tmp_path / "a.tar", make_samples(3))).fingerprint
    assert prints[0] == prints[1]
    assert len({prints[0], prints[2], longer}) == 3


def test_indexing_reads_headers_and_json_but_no_media(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    large = 1 << 32  # reading it would take seconds and gigabytes; the file on disk is sparse
    document = json.dumps(make_record()).encode()
    with path.open("wb") as file:
        for name, size in (("a.mp4", large), ("a.json", len(document))):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.write(document) if name.endswith("json") else file.seek(size, os.SEEK_CUR)
            file.seek(-size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    assert load_index(path).entries[0].members["mp4"] == (512, large)


def test_folders_globs_and_lists_name_shards(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{name}.tar", make_samples(1)) for name in "ab"]
    first, second = map(str, paths)
    assert find_shards(str(tmp_path)) == find_shards(str(tmp_path / "*.tar")) == [first, second]
    assert find_shards(f"file://{tmp_path}") == [first, second]
    assert find_shards([second, str(tmp_path)]) == [second, first]


@pytest.mark.parametrize("pattern", ["gone.tar", "gone-*.tar"])
def test_a_pattern_that_names_nothing_is_an_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ShardError, match=r"no shard matches .*gone.*check the path"):
        find_shards(str(tmp_path / pattern))


def test_a_shard_that_vanished_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar cannot be read"):
        load_index(tmp_path / "gone.tar")


def _read_all(shards: ShardReader, order: list[int], results: "multiprocessing.Queue[list[str]]") -> None:
    results.put([shards.read(index).record.conversations[0].id for index in order])


def test_forked_workers_read_with_their_own_files(tmp_path: Path) -> None:
    samples = [(f"s{index}", make_record(media=False), None, None) for index in range(40)]
    for index, (_, record, _, _) in enumerate(samples):
        record["conversations"][0]["id"] = f"q{index}"
    shards = reader(write_shard(tmp_path / "a.tar", samples))
    shards.read(0)  # opens the parent's file, whose position a forked child would share
    order = list(range(40)) * 200
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    workers = [context.Process(target=_read_all, args=(shards, order, results), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [[f"q{index}" for index in order]] * 2
    for worker in workers:
        worker.join()


def test_a_reader_can_be_sent_to_another_process(tmp_path: Path) -> None:
    shards = reader(write_shard(tmp_path / "a.tar", make_samples(2)))
    first = shards.read(0)
    assert pickle.loads(pickle.dumps(shards)).read(0) == first
