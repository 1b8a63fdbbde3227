"""Damaged and hostile WebDataset tars: one sample is left out, the others are read, and nothing is unpickled."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.convert.row_problems import Reason
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    left_out,
    llava_item,
    read_samples,
    report,
    said,
)
from tests.datamodules.convert.webdataset_tars import FRAMES, convert_tar, in_json, messages, npy, one
from tests.fixtures_data import write_members


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
        ([("1.0.jpg", PICTURE), ("1.2.jpg", PICTURE), ("1.txt", b"x")], Reason.SEVERAL_MEDIA, "2 media members"),
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
