import gzip
import io
import itertools
import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from datamodules.convert.__main__ import main
from datamodules.convert.row_problems import Reason
from datamodules.convert.tar_contents import copy_member, read_contents
from datamodules.media.array_media import read_array
from datamodules.media.frame_sampling import FrameSampling
from datamodules.shards.shard_reader import RawSample
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    left_out,
    llava_item,
    read_samples,
    report,
    said,
    shard_bytes,
    write_json,
)
from tests.fixtures_data import make_clip, make_image, write_members

FRAMES = np.arange(6 * 16 * 24 * 3, dtype=np.uint32).astype(np.uint8).reshape(6, 16, 24, 3)


def in_json(document: object) -> bytes:
    return json.dumps(document).encode()


def npy(frames: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


def one(name: str, media: bytes = PICTURE, **fields: Any) -> list[tuple[str, bytes]]:
    """The members of a good sample."""
    return [(name, media), (f"{name.partition('.')[0]}.json", in_json(llava_item(**fields)))]


def convert_tar(
    folder: Path, members: Sequence[tuple[str, bytes]], *options: object, status: int = 0
) -> list[RawSample]:
    write_members(folder / "set-000.tar", members)
    convert("webdataset", folder / "set-000.tar", folder / "out", *options, status=status)
    return read_samples(folder / "out") if list((folder / "out").glob("*.tar")) else []


def messages(out: Path) -> str:
    return (out / "webdataset.left_out.jsonl").read_text()


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
    assert [sample.ending for sample in samples] == ["jpg", "jpg", "mp4", "jpg", "jpg", None, "jpg"]
    assert samples[0].record.source == "set"
    assert samples[0].record.conversations[0].id == "set-000#0"
    assert samples[2].media is not None
    assert samples[2].media.read() == CLIP
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
    assert (sample.ending, sample.record.start_ms) == ("npy", 200)
    assert sample.media is not None
    video = read_array(sample.media.read(), sample.record, FrameSampling(2))
    assert video.frames.permute(0, 2, 3, 1).numpy().tolist() == FRAMES[[3, 5]].tolist()


@pytest.mark.parametrize(
    ("media", "fields", "reason"),
    [
        (npy(FRAMES), {}, "malformed row"),
        (npy(FRAMES), {"frame_interval_ms": "40"}, "malformed row"),
        (npy(FRAMES), {"frame_interval_ms": True}, "malformed row"),
        (npy(FRAMES), {"frame_interval_ms": 40, "image": "1.npy"}, "malformed row"),
        (npy(FRAMES), {"frame_interval_ms": 40, "start": 7}, "wrong start or end"),
        (npy(FRAMES)[:-1], {"frame_interval_ms": 40}, "damaged media"),
        (npy(FRAMES.astype(np.float32)), {"frame_interval_ms": 40}, "damaged media"),
    ],
)
def test_arrays_that_are_no_video_are_left_out(
    media: bytes, fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert convert_tar(tmp_path, one("1.npy", media, **fields), status=1) == []
    assert left_out(tmp_path / "out", "webdataset") == [(0, reason)]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickled_members_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = pickle.dumps(Payload(tmp_path / "ran"))
    pickle.loads(payload)
    (tmp_path / "ran").unlink()  # it does run when it is unpickled
    array = io.BytesIO()
    np.save(array, np.array([Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    members = [(f"1.{ending}", payload) for ending in ("pyd", "pickle", "pkl", "pth", "cls", "ten")] + one("1.jpg")
    members += one("2.npy", array.getvalue(), frame_interval_ms=40) + one("3.npy", payload, frame_interval_ms=40)
    members += [("4.jpg", payload), ("4.json", payload), ("5.pickle", payload)]
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("unpickled"))
    (sample,) = convert_tar(tmp_path, members, status=1)
    assert not (tmp_path / "ran").exists()
    assert said(sample) == [["<video>\nwhat ?", "a star"]]
    out = tmp_path / "out"
    assert left_out(out, "webdataset") == [
        (1, "damaged media"),
        (2, "damaged media"),
        (3, "wrong encoding"),
        (4, "malformed row"),
    ]
    assert set(report(out, "webdataset")["not_read"]) == {
        f"member .{ending}" for ending in ("pyd", "pickle", "pkl", "pth", "cls", "ten")
    }
    assert "it has .pickle" in messages(out)


def plain(name: str, data: bytes = PICTURE, **header: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in header.items():
        setattr(info, field, value)
    return info, data


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (plain("../bad.jpg"), "refused path"),
        (plain("/tmp/bad.jpg"), "refused path"),
        (plain("a/../../bad.jpg"), "refused path"),
        (plain("pipe://rm.jpg"), "refused path"),
        (plain("bad\n.jpg"), "refused path"),
        (plain("../without_a_dot"), "refused path"),
        (plain("bad.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "refused path"),
        (plain("bad.jpg", b"", type=tarfile.LNKTYPE, linkname="good.json"), "refused path"),
        (plain("bad.jpg", b"", type=tarfile.CHRTYPE), "refused path"),
        (plain("bad.jpg", b"", type=tarfile.FIFOTYPE), "refused path"),
        (plain("good.jpg"), "malformed row"),
        (plain("BZh91AY&SY.json", b"{}"), "decoder crashed or hung"),
    ],
)
def test_members_with_unsafe_names_or_types_cost_their_sample_alone(
    bad: tuple[tarfile.TarInfo, bytes], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "set-000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [*one("good.jpg"), *one("other.jpg", question="which ?")]:
            tar.addfile(plain(name, data)[0], io.BytesIO(data))
        tar.addfile(bad[0], io.BytesIO(bad[1]))
        text = in_json(llava_item())
        if bad[0].name.endswith(("bad.jpg", "rm.jpg")):  # its sample would be one of text only without it
            tar.addfile(plain(f"{bad[0].name[:-4]}.json", text)[0], io.BytesIO(text))
        tar.addfile(plain("__meta__/x.json", b"{}")[0], io.BytesIO(b"{}"))
        tar.addfile(plain("._good.jpg", b"a Mac's")[0], io.BytesIO(b"a Mac's"))
    convert("webdataset", path, tmp_path / "out", status=1)
    assert [sample.record.meta["media"] for sample in read_samples(tmp_path / "out")] == ["good.jpg", "other.jpg"]
    assert [found for _, found in left_out(tmp_path / "out", "webdataset")] == [reason]


@pytest.mark.parametrize(
    ("members", "reason", "message"),
    [
        ([("1.jpg", PICTURE), ("1.png", PICTURE), ("1.txt", b"x")], Reason.SEVERAL_MEDIA, "2 media members"),
        ([("1.0.jpg", PICTURE), ("1.1.jpg", PICTURE), ("1.txt", b"x")], Reason.SEVERAL_MEDIA, "2 media members"),
        (one("1.jpg", image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA, "names 2 images"),
        ([("1.jpg", PICTURE), ("1.JPG", PICTURE), ("1.txt", b"x")], Reason.MALFORMED, "same ending"),
        ([("1.jpg", PICTURE)], Reason.MALFORMED, r"no .json and no .txt member; it has .jpg"),
        ([("1.json", in_json(llava_item(image="a.jpg")))], Reason.MISSING, "no media member"),
        ([("1.jpg", PICTURE), ("1.json", b"{")], Reason.MALFORMED, "its JSON cannot be read"),
        ([("1.jpg", PICTURE), ("1.json", b"[" * 100_000)], Reason.MALFORMED, "its JSON cannot be read"),
        ([("1.jpg", PICTURE), ("1.json", b"3")], Reason.MALFORMED, "must be an object"),
        ([("1.jpg", PICTURE), ("1.json", in_json({"label": 3}))], Reason.MALFORMED, "or a .txt; it has label"),
        ([("1.jpg", PICTURE), ("1.json", b'{"caption": "\\ud83d"}')], Reason.ENCODING, "half a character"),
        ([("1.jpg", PICTURE), ("1.txt", b"\xff\xfe")], Reason.ENCODING, "not UTF-8"),
        ([("1.jpg", PICTURE), ("1.txt", b" \n")], Reason.EMPTY_TURN, "is empty"),
        ([("1.txt", b"alone")], Reason.EMPTY_TURN, "is empty"),
        ([("1.jpg", PICTURE[:200]), ("1.txt", b"x")], Reason.DAMAGED, "set-000.tar: 1.jpg"),
        ([("1.mp4", CLIP[:-200]), ("1.txt", b"x")], Reason.DAMAGED, "set-000.tar: 1.mp4"),
    ],
)
def test_a_broken_sample_is_left_out_and_listed(
    members: list[tuple[str, bytes]], reason: str, message: str, tmp_path: Path
) -> None:
    samples = convert_tar(tmp_path, [*members, *one("2.jpg")], status=1)
    assert [sample.record.meta["media"] for sample in samples] == ["2.jpg"]
    assert left_out(tmp_path / "out", "webdataset") == [(0, reason)]
    assert message in messages(tmp_path / "out")
    assert ".scratch" not in messages(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*.scratch"))


def test_a_text_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.convert.webdataset_rows.MAX_JSON_BYTES", 1000)
    convert_tar(tmp_path, [("1.jpg", PICTURE), ("1.txt", b"x" * 1001)], status=1)
    assert "has 1001 bytes, more than the 1000" in messages(tmp_path / "out")


def test_samples_whose_members_are_apart_are_left_out(tmp_path: Path) -> None:
    apart = [("1.jpg", PICTURE), *one("2.jpg"), ("1.json", in_json(llava_item("<image>\nwhat ?")))]
    samples = convert_tar(tmp_path, apart, status=1)
    assert [sample.record.meta["media"] for sample in samples] == ["2.jpg"]
    assert left_out(tmp_path / "out", "webdataset") == [(0, "malformed row"), (2, "placeholder without media")]


def damaged(data: bytes) -> Mapping[str, tuple[bytes, list[str], str]]:
    """Damaged tars made of a good one with two samples: bytes, media that are used, what the last message says."""
    header = data.index(b"2.jpg")
    return {
        "cut in a picture": (data[: header + 1000], ["1.jpg"], "cut off"),
        "cut in a header": (data[: header + 100], ["1.jpg"], "no end mark"),
        "without an end": (data[: data.index(b"2.json") + 1024], ["1.jpg", "2.jpg"], "no end mark"),
        "with a wrong header": (data[:header] + b"9" + data[header + 1 :], ["1.jpg"], "no end mark"),
        "two in one": (data + data, ["1.jpg", "2.jpg"], "goes on after its end mark"),
        "compressed": (gzip.compress(data), [], "unpack it if it is compressed"),
        "of no bytes": (b"", [], "is cut off or no plain tar"),
        "of other bytes": (b"<html>" * 1000, [], "is cut off or no plain tar"),
    }


@pytest.mark.parametrize("name", damaged(b"2.jpg2.json"))
def test_a_damaged_tar_is_listed_and_the_next_one_is_read(name: str, tmp_path: Path) -> None:
    good = write_members(tmp_path / "set-000.tar", [*one("1.jpg"), *one("2.jpg", question="which ?")]).read_bytes()
    data, used, message = damaged(good)[name]
    (tmp_path / "set-000.tar").write_bytes(data)
    write_members(tmp_path / "set-001.tar", one("3.jpg"))
    convert("webdataset", tmp_path / "set-{000..001}.tar", tmp_path / "out", "--max-missing-rate", 0.9)
    samples = read_samples(tmp_path / "out")
    assert [sample.record.meta["media"] for sample in samples] == [*used, "3.jpg"]
    last = messages(tmp_path / "out").splitlines()[-1]
    assert json.loads(last)["label"] == "set-000"
    assert message in json.loads(last)["message"]


def test_a_header_that_claims_any_size_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "set-000.tar"
    info = tarfile.TarInfo("1.json")
    info.size = 1 << 40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    convert("webdataset", path, tmp_path / "out", status=1)
    assert {reason for _, reason in left_out(tmp_path / "out", "webdataset")} == {"damaged media"}


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
        ("prepare", "copy_member", copy_member, 9),
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
