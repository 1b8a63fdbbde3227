"""Other projects' WebDataset tars become the shards that JSON rows about the same files give."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules.convert.__main__ import main
from datamodules.convert.tar_contents import copy_member, read_contents
from datamodules.media.array_media import read_array
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    llava_item,
    read_samples,
    report,
    said,
    shard_bytes,
    write_json,
)
from tests.datamodules.convert.webdataset_tars import FRAMES, convert_tar, in_json, npy, one
from tests.fixtures_data import make_clip, make_image, write_members

ROWS: list[tuple[str, bytes, dict[str, Any]]] = [
    ("a/1.jpg", PICTURE, llava_item("<image>\nwhat ?", id="1", image="old/path.jpg")),
    ("a/2.mp4", make_clip(24), llava_item("<video>\nhow many ?", "one", start=0.5, end=1.5, video="2.mp4")),
    ("b/3.webp", make_image(form="webp", width=96, height=64), llava_item("what ?", image="3.webp", strange="field")),
    ("b/4.gif", make_image(form="gif"), llava_item("which ?", video="4.gif")),
    ("c/5.npy", npy(FRAMES), llava_item("which ?", video="x.npy", meta={"frame_interval_ms": 40.5})),
    ("c/6.png", make_image(width=90, height=40), llava_item("which ?", system="Be brief.")),
]


@pytest.mark.parametrize("options", [(), ("--no-probe",), ("--reencode", "32,4", "--max-samples", 2)])
def test_tars_give_the_shards_that_json_rows_about_the_same_files_give(
    options: tuple[object, ...], tmp_path: Path
) -> None:
    for name, media, _ in ROWS:
        (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "media" / name).write_bytes(media)
    (tmp_path / "tars").mkdir()
    with webdataset.TarWriter(str(tmp_path / "tars/rows.tar")) as writer:
        for name, media, row in ROWS:
            key, _, ending = name.partition(".")
            writer.write({"__key__": key, ending: media, "json": row})
    rows = [{**row, "video" if "video" in row else "image": name} for name, _, row in ROWS]
    json_rows = write_json(tmp_path / "rows.json", rows)
    convert("llava", json_rows, tmp_path / "one", "--media-root", tmp_path / "media", "--name", "n", *options)
    convert("webdataset", tmp_path / "tars/rows.tar", tmp_path / "two", "--name", "n", *options)
    assert len(read_samples(tmp_path / "two")) == len(ROWS)
    assert shard_bytes(tmp_path / "two") == shard_bytes(tmp_path / "one")
    assert report(tmp_path / "two", "n") == report(tmp_path / "one", "n")


def test_captions_beside_media_or_in_their_json_become_answers(tmp_path: Path) -> None:
    members = [
        ("1.jpg", PICTURE),
        ("1.txt", b"A star.\n"),
        ("2.jpg", PICTURE),
        ("2.json", in_json({"caption": "ignored", "url": "http", "width": 64})),
        ("2.txt", "Ein Stern: \u2605".encode()),
        ("3.mp4", CLIP),
        ("3.json", in_json({"caption": "It turns."})),
        ("4.JPG", PICTURE),
        ("4.json", in_json({"text": "Upper case."})),
        ("5.jpg", PICTURE),
        ("5.json", in_json(llava_item()["conversations"])),
        ("6.json", in_json(llava_item("no picture ?"))),
        ("7.jpg", PICTURE),
        ("7.json", in_json({"QA": [{"i": "Be brief.", "q": "which ?", "a": "one"}]})),
    ]
    samples = convert_tar(tmp_path, members)
    assert [said(sample)[0] for sample in samples] == [
        ["<video>", "A star."],
        ["<video>", "Ein Stern: \u2605"],
        ["<video>", "It turns."],
        ["<video>", "Upper case."],
        ["<video>\nwhat ?", "a star"],
        ["no picture ?", "a star"],
        ["Be brief.", "<video>\nwhich ?", "one"],
    ]
    endings = [[medium.ending for medium in sample.media] for sample in samples]
    assert endings == [["jpg"], ["jpg"], ["mp4"], ["jpg"], ["jpg"], [], ["jpg"]]
    assert samples[0].record.source == "set"
    assert samples[0].record.conversations[0].id == "set-000#0"
    assert samples[2].media[0].content.read() == CLIP
    assert report(tmp_path / "out", "webdataset")["not_read"] == {"caption": 1}


def test_frames_in_an_array_are_stored_with_their_interval(tmp_path: Path) -> None:
    fields = {"frame_interval_ms": 100, "start": 0.2, "end": 9}
    (sample,) = convert_tar(tmp_path, one("1.npy", npy(FRAMES), **fields))
    assert sample.record.meta == {
        "media": "1.npy",
        "width": 24,
        "height": 16,
        "duration_ms": 400,
        "frame_interval_ms": 100,
    }
    assert (sample.media[0].ending, sample.record.start_ms) == ("npy", 200)
    video = read_array(sample.media[0].content.read(), sample.media[0].facts, FrameSampling(2))
    assert video.frames.permute(0, 2, 3, 1).numpy().tolist() == FRAMES[[3, 5]].tolist()


def test_every_way_to_name_tars_gives_the_same_and_a_set_is_named_without_numbers(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "plain").mkdir()
    for number in range(3):
        write_members(tmp_path / f"tars/mix-{number:06d}.tar", one(f"{number}.jpg"))
        write_members(tmp_path / f"plain/{number:05d}.tar", one(f"{number}.jpg"))
    tars = tmp_path / "tars"
    ways = [[tars], [tars / "mix-{000000..000002}.tar"], [tars / "*.tar"], sorted(tars.iterdir())]
    for number, names in enumerate(ways):
        convert("webdataset", *names, tmp_path / f"out{number}")
        assert shard_bytes(tmp_path / f"out{number}") == shard_bytes(tmp_path / "out0")
    samples = read_samples(tmp_path / "out0")
    assert [sample.record.meta["media"] for sample in samples] == ["0.jpg", "1.jpg", "2.jpg"]
    assert {sample.record.source for sample in samples} == {"mix"}
    assert [sample.record.conversations[0].id for sample in samples] == [f"mix-00000{number}#0" for number in range(3)]
    convert("webdataset", tmp_path / "plain", tmp_path / "named")
    assert {sample.record.source for sample in read_samples(tmp_path / "named")} == {"plain"}


def many_tars(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        members = [one(f"{number}{row}.mp4", make_clip(8 + row), question=f"{row} ?") for row in range(5)]
        write_members(folder / f"set-{number:03d}.tar", [member for sample in members for member in sample])
    return folder


def test_a_stopped_conversion_goes_on_to_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = many_tars(tmp_path / "tars")
    convert("webdataset", tars, tmp_path / "whole", "--max-samples", 4)
    for module, name, real, num_calls in (
        ("webdataset_rows", "read_contents", read_contents, 1),
        ("prepare_media", "copy_member", copy_member, 9),
    ):
        calls = itertools.count()

        def stop(*args: Any, calls: Iterator[int] = calls, real: Any = real, num_calls: int = num_calls) -> Any:
            if next(calls) == num_calls:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(f"datamodules.convert.{module}.{name}", stop)
            with pytest.raises(KeyboardInterrupt):
                convert("webdataset", tars, tmp_path / "out", "--max-samples", 4)
    assert 0 < len(shard_bytes(tmp_path / "out")) < 4
    convert("webdataset", tars, tmp_path / "out", "--max-samples", 4)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*.scratch"))
    write_members(tars / "set-002.tar", one("new.jpg"))
    convert("webdataset", tars, tmp_path / "out", "--max-samples", 4, status=2)
    convert("webdataset", tars, tmp_path / "out", "--restart")
    assert len(read_samples(tmp_path / "out")) == 11


def test_worker_processes_and_parts_change_nothing(tmp_path: Path) -> None:
    tars = many_tars(tmp_path / "tars")
    convert("webdataset", tars, tmp_path / "one", "--max-samples", 4)
    assert main(["webdataset", str(tars), str(tmp_path / "two"), "--max-samples", "4", "--workers", "1"]) == 0
    assert shard_bytes(tmp_path / "two") == shard_bytes(tmp_path / "one")
    for number in (1, 2, 3):
        convert("webdataset", tars, tmp_path / "parts", "--part", f"{number}/3")
    assert {sample.key for sample in read_samples(tmp_path / "parts")} == {
        sample.key for sample in read_samples(tmp_path / "one")
    }


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["none.tar"], "no shard matches"),
        (["https://host/set-{000..002}.tar"], "no local file; fetch the tars first"),
        (["s3://bucket/set.tar"], "no local file"),
        (["pipe:cat set.tar"], "no local file"),
        (["{.tar"], "brace without its counterpart"),
        (["set-000.tar", "--media-root", "."], "tars hold them"),
        (["set-000.tar", "--strip-prefix", "/data/"], "tars hold them"),
    ],
)
def test_commands_that_cannot_be_done_are_refused(
    inputs: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_members(tmp_path / "set-000.tar", one("1.jpg"))
    convert("webdataset", inputs[0], "out", *inputs[1:], status=2)
    assert message in capsys.readouterr().err
