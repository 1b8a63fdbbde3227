"""Names of files as data sets have them: in other scripts, decomposed, too long, behind closed folders."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from datamodules.convert.media_paths import checked_path, find_media
from datamodules.convert.row_problems import Reason, RowProblem
from tests.datamodules.convert.conversions import CLIP, convert, left_out, llava_item, read_samples, write_json

UNUSUAL_NAMES = [
    "\u732b\u3000\u72ac.mp4",  # ideographic space
    "no\u00a0break.mp4",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4",  # a family, of three emoji
    "zero\u200bwidth.mp4",
    "soft\u00adhyphen.mp4",
    "right\u202eto left.mp4",
    "line\u2028separator.mp4",
    "private\ue000use.mp4",
    "\ufefford\u0301.mp4",
    "a b'\"$(x)#?&.mp4",
    "-leading.mp4",
]


def test_every_name_without_control_characters_is_converted(tmp_path: Path) -> None:
    for name in UNUSUAL_NAMES:
        (tmp_path / name).write_bytes(CLIP)
    rows = write_json(tmp_path / "rows.json", [llava_item(video=name) for name in UNUSUAL_NAMES])
    convert("llava", rows, tmp_path / "out")
    assert [sample.record.meta["media"] for sample in read_samples(tmp_path / "out")] == UNUSUAL_NAMES


@pytest.mark.parametrize("letter", ["\0", "\n", "\t", "\x1b", "\x7f", "\x9b"])
def test_control_characters_are_refused(letter: str) -> None:
    with pytest.raises(RowProblem, match="cannot be the path") as caught:
        checked_path(f"a{letter}.mp4")
    assert caught.value.reason is Reason.REFUSED_PATH


def test_half_a_character_in_a_name_costs_its_row_only(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(CLIP)
    items = [llava_item(video="caf\udce9.mp4"), llava_item(video="a.mp4")]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    convert("llava", tmp_path / "rows.jsonl", tmp_path / "out", status=1)
    assert left_out(tmp_path / "out") == [(0, "wrong encoding")]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("named", ["NFC", "NFD"])
@pytest.mark.parametrize("ending", [".mp4", ""])
def test_accents_are_found_composed_and_decomposed(tmp_path: Path, on_disk: str, named: str, ending: str) -> None:
    name = "caf\u00e9/d\u00e9j\u00e0 \ud55c\uae00"
    path = tmp_path / unicodedata.normalize(on_disk, f"{name}.mp4")  # type: ignore[arg-type]
    path.parent.mkdir()
    path.write_bytes(CLIP)
    wanted = unicodedata.normalize(named, f"{name}{ending}")  # type: ignore[arg-type]
    assert find_media(wanted, (str(tmp_path),)) == path


def test_every_folder_on_the_way_may_be_spelled_in_its_own_way(tmp_path: Path) -> None:
    path = tmp_path / unicodedata.normalize("NFD", "\u00e9") / unicodedata.normalize("NFC", "\u00e9.mp4")
    path.parent.mkdir()
    path.write_bytes(CLIP)
    for form in ("NFC", "NFD"):
        wanted = unicodedata.normalize(form, "\u00e9/\u00e9.mp4")  # type: ignore[arg-type]
        assert find_media(wanted, (str(tmp_path),)) == path


@pytest.mark.parametrize("name", ["\u732b" * 90 + ".mp4", "a" * 300, "a/" * 3000 + "b.mp4"])
def test_a_name_that_is_too_long_for_the_disk_is_missing_media(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").write_bytes(CLIP)
    rows = write_json(tmp_path / "rows.json", [llava_item(video=name), llava_item(video="a.mp4")])
    convert("llava", rows, tmp_path / "out", status=1)
    assert left_out(tmp_path / "out") == [(0, "missing media")]
    (line,) = (tmp_path / "out/llava.left_out.jsonl").read_text().splitlines()
    message = json.loads(line)["message"]
    assert "File name too long" in message
    assert len(message) < 600


@pytest.mark.parametrize("number", [13, 5, 116, 40])  # EACCES, EIO, ESTALE, ELOOP
def test_a_folder_that_cannot_be_looked_into_is_missing_media_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise OSError(number, "the reason")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse)
        with pytest.raises(RowProblem, match="but not every folder could be searched: the reason") as caught:
            find_media("a.mp4", (str(tmp_path),))
    assert caught.value.reason is Reason.MISSING


def test_an_unreadable_root_does_not_hide_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(CLIP)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    assert find_media("a.mp4", (str(tmp_path / "loop"), str(tmp_path / "file"), str(tmp_path))) == tmp_path / "a.mp4"


def test_what_is_no_file_is_missing_media(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(RowProblem) as caught:
        find_media("pipe.mp4", (str(tmp_path),))
    assert caught.value.reason is Reason.MISSING
