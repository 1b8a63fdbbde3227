"""A shard from a stranger: nothing in it is run, and nothing in it takes memory or time without bound."""

import hashlib
import io
import json
import os
import pickle
import resource
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import BrokenMediaError, SampleError, ShardError
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.schema import MAX_JSON_BYTES
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import ShardReader
from tests.fixtures_data import make_clip, make_record, write_members

pytestmark = pytest.mark.timeout(60)

RECORD = json.dumps(make_record(meta={"frame_interval_ms": 40})).encode()
TEXT = json.dumps(make_record(media=False)).encode()


class Explosive:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def read_media(path: Path) -> Any:
    media = MediaReader(FrameSampling(num_frames=2), PixelTransform(PixelOptions(16), train=False))
    return media.read(ShardReader([load_index(path)]).read(0).media[0], (0,))


def write_raw(path: Path, *headers: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    """Write headers as they are, whatever size they claim; the end is there, far behind, and takes no disk."""
    with path.open("wb") as file:
        for header, data in headers:
            file.write(header.tobuf(form))
            file.write(data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, pax or {}
    return member


def pickled_array(mark: Path) -> bytes:
    target = io.BytesIO()
    np.save(target, np.array([Explosive(mark)], dtype=object), allow_pickle=True)
    return target.getvalue()


@pytest.mark.parametrize("ending", ["npy", "safetensors", "mp4", "png", "gif"])
@pytest.mark.parametrize("make", [pickled_array, lambda mark: pickle.dumps(Explosive(mark))], ids=["array", "pickle"])
def test_a_pickle_under_an_allowed_name_is_not_opened(
    tmp_path: Path, make: Callable[[Path], bytes], ending: str
) -> None:
    mark = tmp_path / "ran"
    payload = make(mark)
    path = write_members(tmp_path / "x.tar", [(f"a.{ending}", payload), ("a.json", RECORD)])
    with pytest.raises(BrokenMediaError, match=r"x\.tar, key 'a'"):
        read_media(path)
    assert not mark.exists()
    np.load(io.BytesIO(payload), allow_pickle=True)  # opened by a careless reader, it would have run
    assert mark.exists()


@pytest.mark.parametrize("url", ["pipe:touch {}", "pipe:cat x.tar | tee {}", "pipe:{}"])
def test_a_pipe_runs_nothing(tmp_path: Path, url: str) -> None:
    with pytest.raises(ShardError, match="no commands are run"):
        find_shards(url.format(tmp_path / "ran"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 512, 1 << 63, 1 << 70, -512, -1024])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE], ids=["file", "L", "x"])
def test_absurd_sizes_are_refused(tmp_path: Path, size: int, kind: bytes) -> None:
    path = write_raw(tmp_path / "x.tar", (header("a.json", size, kind), TEXT))
    with pytest.raises(ShardError, match=r"x\.tar: member .* is refused|x\.tar is truncated or no plain tar"):
        load_index(path)


@pytest.mark.parametrize("size", ["9223372036854775808", "-512", "1" * 400])
def test_absurd_sizes_in_extended_headers_are_refused(tmp_path: Path, size: str) -> None:
    path = write_raw(tmp_path / "x.tar", (header("a.json", 0, pax={"size": size}), TEXT), form=tarfile.PAX_FORMAT)
    with pytest.raises(ShardError, match=r"x\.tar: member .* is refused|x\.tar is truncated or no plain tar"):
        load_index(path)


def test_a_name_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.tar", (header("././@LongLink", 1 << 30, tarfile.GNUTYPE_LONGNAME), b""))
    os.truncate(path, 1 << 31)  # the bytes are there, but take no disk
    with pytest.raises(ShardError, match=r"a header claims 1073741824 bytes"):
        load_index(path)


def test_a_long_chain_of_extended_headers_is_refused(tmp_path: Path) -> None:
    link = (header("././@LongLink", 4, tarfile.GNUTYPE_LONGNAME), b"name")
    with pytest.raises(ShardError, match="truncated or no plain tar"):
        load_index(write_raw(tmp_path / "x.tar", *[link] * 5000))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = header("a.json", 0, kind)
    member.linkname = "/etc/passwd"
    with pytest.raises(ShardError, match=r"'a\.json' is refused: it is a link or no plain file"):
        load_index(write_raw(tmp_path / "x.tar", (member, b"")))


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    old = write_raw(tmp_path / "old.tar", (header("a.json", 512, tarfile.GNUTYPE_SPARSE), TEXT))
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.json", "GNU.sparse.realsize": "9"}
    new = write_raw(tmp_path / "new.tar", (header("a.json", 512, pax=pax), b"1\n0\n9\n"), form=tarfile.PAX_FORMAT)
    for path in (old, new):
        with pytest.raises(ShardError, match=r"is refused: it is a link or no plain file|no plain tar"):
            load_index(path)


def test_a_json_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.tar", (header("a.json", 1 << 30), b""))
    with path.open("r+b") as file:  # the bytes are there, but take no disk
        file.seek(512 + (1 << 30))
        file.write(header("b.json", len(TEXT)).tobuf(tarfile.GNU_FORMAT) + TEXT + bytes(-len(TEXT) % 512 + 1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shards = ShardReader([load_index(path)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    with pytest.raises(
        SampleError, match=rf"x\.tar, key 'a': its JSON has 1073741824 bytes, more than.*{MAX_JSON_BYTES}"
    ):
        shards.read(0)
    assert shards.read(1).key == "b"


@pytest.mark.parametrize(
    "document",
    [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b'{"source": ' + b"9" * 100_000 + b"}"],
    ids=["open", "closed", "objects", "digits"],
)
def test_deep_and_long_json_is_a_wrong_sample(tmp_path: Path, document: bytes) -> None:
    shards = ShardReader([load_index(write_members(tmp_path / "x.tar", [("a.json", document)]))])
    with pytest.raises(SampleError, match="malformed JSON"):
        shards.read(0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 300_000) + b"[" * 300_000,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 75) + b'{"features":{"dtype":"F32","shape":[9,9,999999999],"data_offsets":[0,99999]}}',
        os.urandom(4096),
    ],
    ids=["empty", "length", "deep", "none", "shape", "noise"],
)
def test_garbage_features_are_broken_media(tmp_path: Path, data: bytes) -> None:
    path = write_members(tmp_path / "x.tar", [("a.safetensors", data), ("a.json", RECORD)])
    with pytest.raises(BrokenMediaError, match="the cached features cannot be read"):
        read_media(path)


def row(members: Any) -> str:
    return json.dumps(["a", members, 1, {}, None, [3]])


@pytest.mark.parametrize(
    "line",
    [
        row({"json": [-5, 10]}),
        row({"json": [0, MAX_JSON_BYTES + 1]}),
        row({"json": [0, 5], "pkl": [0, 5]}),
        row({"mp4": [0, 5]}),
        row({"json": ["x", 5]}),
        row([]),
        "[1, 2]",
        "[" * 100_000,
        "{",
    ],
)
def test_an_index_of_a_stranger_is_trusted_as_little(tmp_path: Path, line: str) -> None:
    path = write_members(tmp_path / "x.tar", [("a.mp4", make_clip(2)), ("a.json", RECORD)])
    ours = load_index(path)
    beside = tmp_path / "x.tar.index.json"
    document = beside.read_bytes()
    good = document.split(b"\n")[1]
    rows = line.encode() + b"\n"
    hashes = [hashlib.sha256(part).hexdigest().encode() for part in (good + b"\n", rows)]
    beside.write_bytes(document.replace(good, line.encode()).replace(*hashes))
    with pytest.raises(ShardError, match=r"its index is damaged .*remove it"):
        load_index(path).entries[0]
    beside.write_bytes(document.replace(good, line.encode()))
    assert list(load_index(path).entries) == list(ours.entries), "rows that do not fit their digest are made again"


def test_no_command_is_run(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no commands are run"):
        find_shards(f"pipe:touch {tmp_path}/ran")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.pyd", "a.pickle", "a.pkl", "a.pth", "a.pt", "a.json.pkl", "a", "a.sh"])
def test_members_that_could_run_code_are_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    path = write_members(tmp_path / "x.tar", [("a.json", TEXT), (name, pickle.dumps(Explosive(mark)))])
    with pytest.raises(ShardError, match=r"x\.tar: member .* is refused: its ending"):
        load_index(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["/etc/a.json", "../a.json", "a/../../b.json", "pipe:touch ran.json", "a\nb.json"])
def test_members_that_leave_the_shard_are_refused(tmp_path: Path, name: str) -> None:
    path = write_members(tmp_path / "x.tar", [(name, TEXT)])
    with pytest.raises(ShardError, match="is refused: absolute"):
        load_index(path)


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ShardError, match="it is a link"):
        load_index(tmp_path / "x.tar")
