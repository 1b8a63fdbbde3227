"""Subtitle files that other programs read, after every caption."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
import webvtt

from membridge.live.caption_files import Caption, CaptionFile, check_caption_files, plain_text, to_srt, to_text, to_vtt

HARD = [
    "A man opens a door.",
    "a --> b, <b>bold</b> & &amp; <00:01.000>",
    "first\n\n\nthird\r\n\r\n  \nlast",
    "1\n2",
    "line\u2028separator\u2029paragraph\x0bvertical\x0cfeed\x85next",
    "zero\0width \x1b[31mred",
    "猫が走る 👨‍👩‍👧 café",
    "NOTE hello\n\nSTYLE",
    "WEBVTT",
    "half \ud83d",
    "-->",
]


def write(path: Path, texts: list[str], form: str) -> None:
    file = CaptionFile(path, form)
    for number, text in enumerate(texts):
        file.add(Caption(1000 * number, 1000 * number + 900, 2, text))
    file.close()


def srt_blocks(path: Path) -> list[tuple[str, str]]:
    """Times and text of every block, which must follow the form exactly."""
    blocks = path.read_text().split("\n\n")
    assert blocks.pop() == ""
    found = []
    for number, block in enumerate(blocks, start=1):
        match = re.fullmatch(r"(\d+)\n(\d\d+:\d\d:\d\d,\d{3} --> \d\d+:\d\d:\d\d,\d{3})\n(.+)", block, re.DOTALL)
        assert match is not None, block
        assert int(match[1]) == number
        assert "-->" not in match[3]
        assert all(line.strip() for line in match[3].split("\n"))
        found.append((match[2], match[3]))
    return found


def encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def test_a_strict_reader_of_webvtt_finds_every_text(tmp_path: Path) -> None:
    write(tmp_path / "a.vtt", HARD, "vtt")
    read = webvtt.read(tmp_path / "a.vtt")
    unescaped = [each.raw_text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for each in read]
    assert unescaped == [encodable(plain_text(text)) for text in HARD]
    assert [each.start_in_seconds for each in read] == list(range(len(HARD)))


def test_blocks_of_subrip_are_read_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "a.srt", HARD, "srt")
    assert [text for _, text in srt_blocks(tmp_path / "a.srt")] == [
        encodable(plain_text(text)).replace("-->", "->") for text in HARD
    ]


def test_json_lines_have_the_answer_as_it_is(tmp_path: Path) -> None:
    texts = [text for text in HARD if "\ud83d" not in text]
    write(tmp_path / "a.jsonl", texts, "jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().decode().split("\n")[:-1]
    assert [json.loads(line)["caption"] for line in lines] == texts
    assert json.loads(lines[1]) == {"start": 1.0, "end": 1.9, "frames": 2, "caption": texts[1]}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_ffmpeg_reads_as_many_subtitles(form: str, tmp_path: Path) -> None:
    path, out = tmp_path / f"a.{form}", tmp_path / "out.vtt"
    write(path, HARD, form)
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), str(out)], check=True)
    assert len(webvtt.read(out)) == len(HARD)


@pytest.mark.parametrize("text", ["", " \n\t\n", "\0"])
def test_a_subtitle_without_text_is_left_out_and_the_line_says_so(text: str, tmp_path: Path) -> None:
    write(tmp_path / "a.srt", ["one", text, "two"], "srt")
    assert [shown for _, shown in srt_blocks(tmp_path / "a.srt")] == ["one", "two"]
    assert "(the model gave an empty caption)" in to_text(Caption(0, 1, 1, text))


def test_times_beyond_a_hundred_hours_stay_right() -> None:
    late = Caption(100 * 3_600_000 + 61_007, 100 * 3_600_000 + 3_599_999, 1, "late")
    assert to_srt(late, 7).splitlines()[1] == "100:01:01,007 --> 100:59:59,999"
    assert to_vtt(late).splitlines()[0] == "100:01:01.007 --> 100:59:59.999"
    assert to_text(late) == "[100:01:01 - 100:59:59] late"
    assert to_text(Caption(12_400, 31_900, 1, "a\nb")) == "[00:12 - 00:31] a b"


def test_files_are_complete_after_every_caption(tmp_path: Path) -> None:
    files = {form: CaptionFile(tmp_path / f"a.{form}", form) for form in ("srt", "vtt", "jsonl")}
    assert (tmp_path / "a.vtt").read_text() == "WEBVTT\n\n"
    for number in range(4):
        for file in files.values():
            file.add(Caption(1000 * number, 1000 * number + 1, 1, "text"))
        assert len(webvtt.read(tmp_path / "a.vtt")) == len(srt_blocks(tmp_path / "a.srt")) == number + 1
        assert len((tmp_path / "a.jsonl").read_text().splitlines()) == number + 1


def test_captions_go_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe", ["hello"], "vtt")
    reader.join(10)
    assert read[0].endswith("hello\n\n")


def test_files_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    video, old = tmp_path / "video.mp4", tmp_path / "old.srt"
    for path in (video, old):
        path.write_text("content")
    with pytest.raises(ValueError, match=r"old\.srt is there already; choose another file, or give --overwrite"):
        check_caption_files({"srt": old}, str(video), overwrite=False)
    check_caption_files({"srt": old}, str(video), overwrite=True)
    with pytest.raises(ValueError, match="is the video that is read"):
        check_caption_files({"vtt": tmp_path / "." / "video.mp4"}, str(video), overwrite=True)
    with pytest.raises(ValueError, match="two of the caption files are the same"):
        check_caption_files({"srt": tmp_path / "a", "vtt": tmp_path / "a"}, str(video), overwrite=False)
    assert video.read_text() == old.read_text() == "content"
    check_caption_files({"srt": tmp_path / "new/folder/a.srt"}, "-", overwrite=False)
    assert (tmp_path / "new/folder").is_dir()
