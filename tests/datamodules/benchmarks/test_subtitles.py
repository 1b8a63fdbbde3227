"""Subtitles in two forms, and times."""

import json
from pathlib import Path

import pytest

from datamodules.benchmarks.clock_times import to_seconds
from datamodules.benchmarks.subtitles import Subtitle, read_subtitles, shown_at


def test_srt_with_any_line_ends_markup_and_gaps(tmp_path: Path) -> None:
    first = "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Hello</i>\r\nthere\r\n\r\n"
    text = f"{first}2\r\n01:00:00.5 --> 01:00:01.25\r\n{{\\an8}}End\r\n"
    (tmp_path / "a.srt").write_bytes(text.encode())
    assert read_subtitles(tmp_path / "a.srt") == [
        Subtitle(1000, 2500, "Hello there"),
        Subtitle(3_600_500, 3_601_250, "End"),
    ]


def test_a_number_as_last_line_of_a_text_is_no_text_and_an_empty_one_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n0:00:01,0 --> 0:00:02,0\n\n2\n0:00:03,0 --> 0:00:04,0\n42 is it\n")
    assert [line.text for line in read_subtitles(tmp_path / "a.srt")] == ["42 is it"]


def test_lines_before_the_video_begins_are_left_out_and_others_are_moved(tmp_path: Path) -> None:
    rows = [{"start": "00:00:01", "end": "00:00:04", "line": "a"}, {"timestamp": [9, 12], "text": "b"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert read_subtitles(tmp_path / "a.json", 10.0) == [Subtitle(0, 2000, "b")]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there are no subtitles"):
        read_subtitles(tmp_path / "none.srt")
    for content in ("{", "[1]", '[{"start": 1}]'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match="holds no subtitles"):
            read_subtitles(tmp_path / "a.json")


def test_those_are_shown_that_a_frame_falls_into() -> None:
    lines = [Subtitle(0, 1000, "a"), Subtitle(2000, 3000, "b"), Subtitle(5000, 6000, "c")]
    assert [line.text for line in shown_at(lines, [1000, 2500, 4000])] == ["a", "b"]
    assert lines[1].middle_ms == 2500


@pytest.mark.parametrize(("text", "seconds"), [(12, 12.0), ("12.5", 12.5), ("1:05", 65.0), ("01:01:05.5", 3665.5)])
def test_times(text: str, seconds: float) -> None:
    assert to_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", None, True, "nan", "inf"])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="no time"):
        to_seconds(text)
