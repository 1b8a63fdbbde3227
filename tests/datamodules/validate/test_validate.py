import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import load_index
from datamodules.validate.__main__ import main
from tests.datamodules.file_server import FileServer
from tests.datamodules.validate.validation import kinds, validate
from tests.fixtures_data import (
    make_clip,
    make_image,
    make_record,
    make_samples,
    write_members,
    write_shard,
)

pytestmark = pytest.mark.timeout(120)

CLIP = make_clip(3)
GOOD = json.dumps(make_record()).encode()
TEXT = json.dumps(make_record(media=False, source="talk")).encode()
PICTURE = json.dumps(make_record([("what is it ?", "a star"), ("how many ?", "one")], source="easy")).encode()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    members = [("v.mp4", CLIP), ("v.json", GOOD), ("p.png", make_image()), ("p.json", PICTURE), ("t.json", TEXT)]
    return write_members(tmp_path / "good.tar", members)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    members = [
        ("a.json", b'{"source": '),
        ("b.mp4", CLIP),
        ("c.json", b"{}"),
        ("d.mp4", CLIP),
        ("d.json", TEXT),
        ("e.json", GOOD),
        ("f.mp4", CLIP[: len(CLIP) // 2]),
        ("f.json", GOOD),
        ("g.png", make_image()[:40]),
        ("g.json", PICTURE),
        ("h.mp4", CLIP),
        ("h.json", GOOD),
    ]
    return write_members(tmp_path / "wrong.tar", members)


@pytest.mark.parametrize("workers", [0, 2])
def test_good_shards_pass_and_are_counted_and_indexed(
    good: Path, tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "more.tar", make_samples(2))
    status, report = validate(good, tmp_path / "more.tar", "--workers", workers, report=tmp_path / "report.json")
    assert status == 0
    assert report["counts"] == [
        {"source": "easy", "modality": "image", "samples": 1, "conversations": 2},
        {"source": "made", "modality": "video", "samples": 3, "conversations": 3},
        {"source": "talk", "modality": "text", "samples": 1, "conversations": 1},
    ]
    assert (report["shards"], report["samples"], report["decoded"]) == (2, 5, 4)
    assert report["problems"] == {}
    assert (tmp_path / "good.tar.index.json").exists()
    assert "5 samples in 2 shards, media of 4 decoded" in capsys.readouterr().out


def test_every_kind_of_wrong_sample_is_told(wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = validate(wrong, "--workers", 0, report=tmp_path / "report.json")
    assert status == 1
    assert kinds(report) == {
        "a": "json",
        "b": "members",
        "c": "sample",
        "d": "video mark",
        "e": "video mark",
        "f": "media",
        "g": "media",
    }
    assert report["problems"] == {"video mark": 2, "media": 2, "json": 1, "members": 1, "sample": 1}
    assert report["bad_rate"] == 7 / 8
    printed = capsys.readouterr().out
    assert "7 wrong samples (87.50%)" in printed
    assert "malformed JSON" in printed


def test_the_rate_that_is_allowed_decides(wrong: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert validate(wrong, "--workers", 0, "--max-bad-rate", 0.875, report=report)[0] == 0
    assert validate(wrong, "--workers", 0, "--max-bad-rate", 0.87, report=report)[0] == 1


def test_decoding_can_be_left_out_or_sampled(wrong: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    _, without = validate(wrong, "--workers", 0, "--no-decode", report=report)
    assert without["decoded"] == 0
    assert "media" not in without["problems"]
    write_shard(tmp_path / "many.tar", make_samples(40))
    counts = [
        validate(tmp_path / "many.tar", "--workers", 0, "--fraction", 0.5, report=report)[1]["decoded"] for _ in "ab"
    ]
    assert counts[0] == counts[1]
    assert 8 < counts[0] < 32


def clip_damaged_between_three_frames() -> bytes:
    """An AVI of 60 frames, of which some that neither 3 nor 4 evenly spaced frames need are damaged."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    data = bytearray(make_clip(60, codec="mpeg4", container="avi", frames=noise, keyframe_interval=1))
    start = data.index(b"00dc", data.index(b"00dc", len(data) // 3) + 4)
    data[start + 600 : start + 1400] = bytes(800)
    return bytes(data)


def test_damage_between_the_decoded_frames_is_found_by_asking_as_training_does(tmp_path: Path) -> None:
    members = [("v.avi", clip_damaged_between_three_frames()), ("v.json", GOOD), ("p.png", make_image())]
    shard = write_members(tmp_path / "damaged.tar", [*members, ("p.json", PICTURE)])
    outcomes = {
        asked: kinds(validate(shard, "--workers", 0, *asked.split(), report=tmp_path / "report.json")[1])
        for asked in ("", "--num-frames 60", "--fps 4", "--fps 4 --max-frames 3", "--thorough")
    }
    assert outcomes == {
        "": {},
        "--num-frames 60": {"v": "media"},
        "--fps 4": {"v": "media"},
        "--fps 4 --max-frames 3": {},
        "--thorough": {"v": "media"},
    }


def test_every_frame_of_good_shards_is_decoded_on_request(good: Path, tmp_path: Path) -> None:
    assert validate(good, "--workers", 0, "--thorough", report=tmp_path / "report.json")[0] == 0


def test_a_key_that_two_shards_share_is_wrong_within_one_source(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(3))
    write_shard(tmp_path / "b.tar", make_samples(2, start=2))
    other = [(key, make_record(source="other"), media, ending) for key, _, media, ending in make_samples(2)]
    write_shard(tmp_path / "c.tar", other)
    status, report = validate(tmp_path, "--workers", 0, "--no-decode", report=tmp_path / "report.json")
    assert status == 1
    assert kinds(report) == {"sample002": "duplicate key"}
    assert "a.tar too" in report["wrong_samples"][0]["reason"]


def test_a_shard_that_cannot_be_read_fails_whatever_rate_is_allowed(good: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[:3000])
    status, report = validate(good, cut, "--workers", 0, "--max-bad-rate", 1, report=tmp_path / "report.json")
    assert status == 1
    assert report["samples"] == 3
    assert [found["shard"] for found in report["unreadable_shards"]] == [str(cut)]
    assert "is truncated" in report["unreadable_shards"][0]["reason"]


def test_an_index_that_is_there_is_not_believed(good: Path, tmp_path: Path) -> None:
    fresh = load_index(good)
    beside = tmp_path / "good.tar.index.json"
    expected = beside.read_bytes()
    beside.write_bytes(expected.replace(b'"v"', b'"w"'))
    assert validate(good, "--workers", 0, report=tmp_path / "report.json")[0] == 0
    assert beside.read_bytes() == expected
    assert load_index(good).fingerprint == fresh.fingerprint


def test_indexes_for_remote_shards_are_written_for_upload(good: Path, tmp_path: Path) -> None:
    served, indexes = tmp_path / "served", tmp_path / "indexes"
    served.mkdir()
    shutil.copy(good, served)
    cache = ["--cache-folder", tmp_path / "cache", "--cache-gigabytes", 0.001]
    with FileServer(served) as server:
        arguments = [f"{server.url}/good.tar", "--workers", 2, "--index-out", indexes, *cache]
        assert validate(*arguments, report=tmp_path / "report.json")[0] == 0
        assert server.fetched["good.tar"] == 1
        shutil.copy(indexes / "good.tar.index.json", served)
        fresh = ShardCache(str(tmp_path / "other cache"))
        assert load_index(f"{server.url}/good.tar", fresh).fingerprint == load_index(good).fingerprint
        assert server.fetched["good.tar"] == 1, "the index beside it was enough"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.tar"], "no shard matches 'gone.tar'"),
        (["--fraction", "2"], "must be between 0 and 1"),
        (["--workers", "-1"], "must be between 0 and 1, --workers"),
    ],
)
def test_senseless_commands_are_refused(
    good: Path, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(good), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_indexes_that_would_overwrite_each_other_are_refused(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(good, tmp_path / "other")
    with pytest.raises(SystemExit):
        main([str(good), str(tmp_path / "other"), "--index-out", str(tmp_path / "indexes")])
    assert "several shards are named good.tar" in capsys.readouterr().err
