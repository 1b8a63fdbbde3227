"""Fields of other names, units and marks: read, told or refused, never dropped without a word."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.rows import Row, llava_row, pllava_row
from tests.datamodules.convert.conversions import (
    convert,
    left_out,
    llava_item,
    part,
    read_samples,
    report,
    said,
    write_json,
    write_media,
)


def paths(row: Row) -> list[str]:
    return [medium.path for medium in row.media]


def video_row(**fields: Any) -> Row:
    return llava_row(llava_item(video="a.mp4", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"start": 1, "end": 2.5},
        {"start": "1", "end": "2.5"},
        {"start": "1s", "end": "2500 ms"},
        {"start_time": "00:00:01", "end_time": "00:00:02.5"},
        {"startTime": "0:01", "endTime": "00:02,5"},
        {"video_start": 1, "video_end": 2.5},
        {"start_sec": 1, "end_sec": 2.5},
        {"start_s": 1, "end_s": 2.5},
        {"begin": 1, "end": 2.5},
        {"start": 1, "stop": 2.5},
        {"begin_time": 1, "finish_time": 2.5},
        {"t_start": 1, "t_end": 2.5},
        {"ts_start": 1, "ts_end": 2.5},
        {"time_start": 1, "time_end": 2.5},
        {"segments": [[1, 2.5]]},
        {"window": [1, 2.5]},
        {"moment": [1, 2.5]},
        {"trim": [1, 2.5]},
        {"interval": "[1, 2.5]"},
        {"clip": "1s to 2.5s"},
        {"start_ms": 1000, "end_ms": 2500},
        {"clip_start_ms": "1000", "clip_end_ms": "2500ms"},
        {"clip": [1, 2.5]},
        {"clip": {"start": 1, "end": 2.5}},
        {"clip": "00:01 - 00:02.5"},
        {"span": [[1, 2.5]]},
        {"segment_ms": [1000, 2500]},
        {"timestamps": [1, 2.5]},
        {"timestamps": [3, 4], "video_start": 1, "video_end": 2.5},
        {"time_range": ["0:00:01", "0:00:02.500"]},
        {"meta": {"split": [1, 2.5]}},
        {"metadata": {"start": 1, "end": 2.5}},
        {"start": 1, "end": 2.5, "start_time": 1.0, "start_frame": 30, "end_frame": 75},
    ],
)
def test_the_part_of_a_video_is_read_whatever_its_fields_are_called(fields: dict[str, Any]) -> None:
    assert part(video_row(**fields)) == (1000, 2500)


def test_times_on_a_clock_are_hours_minutes_and_seconds() -> None:
    assert part(video_row(start="1:02:03.5", end="75:00")) == (3_723_500, 4_500_000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": "0:75"}, "'start' must be seconds"),
        ({"start": "1:75:00"}, "'start' must be seconds"),
        ({"start": True}, "'start' must be seconds"),
        ({"start": 120_000, "end": 150_000}, "name the fields start_ms and end_ms"),
        ({"end": 60_000, "duration": 100}, "the row's duration is 100; for times in milliseconds"),
        ({"start_ms": "00:10"}, "'start_ms' must be seconds"),
        ({"start_sec": "100ms"}, "its name and its unit contradict each other"),
        ({"start": 1, "start_time": 2}, "several fields have different times: 'start' 1000 ms, 'start_time' 2000 ms"),
        ({"clip": [1, 2, 3]}, "'clip' must be a start and an end"),
        ({"clip": ["a.mp4", "b.mp4"]}, "'clip' must be seconds"),
        ({"start_frame": 30, "end_frame": 60}, "'start_frame' counts frames"),
        ({"clip": [2, 1]}, "do not span"),
        ({"start_ms": 10**30}, "'start_ms' is int 1000.*, more than 25 days"),
        ({"start_s": 1e308}, "'start_s' is float 1e\\+308, more than 25 days"),
        ({"end": 10**400}, "more than a day"),
        ({"start": -(10**400)}, "'start' must be seconds, 0 or more"),
        ({"start": 1, "duration": 2}, "a start of 1000 ms, no end, and 'duration' 2"),
        ({"video_start": 0, "clip_duration": 2.5}, "no end, and 'clip_duration' 2.5"),
    ],
)
def test_times_that_are_none_or_could_be_read_in_two_ways_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RowProblem, match=message) as caught:
        video_row(**fields)
    assert caught.value.reason is Reason.SPAN


def test_a_part_is_read_of_a_video_however_it_is_named_and_never_of_a_picture() -> None:
    span = {"start": 1, "end": 2}
    assert llava_row(llava_item(image="a.mp4", **span)) == video_row(**span)
    assert part(llava_row(llava_item(media="a", **span))) == (1000, 2000)
    for name in ("a.gif", "a.jpg", "a"):
        row = llava_row(llava_item(image=name, **span))
        assert (part(row), row.unread) == ((None, None), ("end", "start"))


def test_a_picture_that_the_row_calls_a_video_has_no_part(tmp_path: Path) -> None:
    rows = [llava_item(video="a.jpg", start=1, end=2), llava_item(video="b.mp4", start=0.5)]
    write_media(tmp_path, "a.jpg", "b.mp4")
    convert("llava", write_json(tmp_path / "rows.json", rows), tmp_path / "out")
    assert [sample.record.start_ms for sample in read_samples(tmp_path / "out")] == [None, 500]


def test_rows_that_name_a_video_by_either_field_share_a_sample(tmp_path: Path) -> None:
    rows = [llava_item("one ?", video="b.mp4"), llava_item("two ?", image="b.mp4")]
    write_media(tmp_path, "b.mp4")
    convert("llava", write_json(tmp_path / "rows.json", rows), tmp_path / "out")
    assert [len(said(sample)) for sample in read_samples(tmp_path / "out")] == [2]


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "train"},
        {"clip": "abc-1"},
        {"clip": "0012-0034"},
        {"timestamps": [[1, 2], [3, 4]]},
        {"segments": [[1, 2], [3, 4]]},
    ],
)
def test_fields_that_tell_no_part_leave_the_whole_video(fields: dict[str, Any]) -> None:
    assert part(video_row(**fields)) == (None, None)


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_field_becomes_the_system_turn_where_there_is_none(name: str) -> None:
    row = video_row(**{name: "Answer in French."})
    assert row.turns[0] == ("system", "Answer in French.")
    assert row.unread == ()
    turns = [{"role": "system", "content": "Be brief."}, *llava_item()["conversations"]]
    row = llava_row({"conversations": turns, name: "Answer in French."})
    assert row.turns[0].content == "Be brief."
    assert row.unread == (name,)
    assert video_row(**{name: ""}).turns[0].role == "user"
    asked = pllava_row({"video": "a.mp4", name: "Answer in French.", "QA": [{"q": "a ?", "a": "b"}]})
    assert asked.turns[0].content == "Answer in French."


def test_media_are_read_under_other_names_and_two_equal_entries_are_one() -> None:
    assert paths(llava_row(llava_item(images=["a.jpg", "a.jpg"]))) == ["a.jpg"]
    assert paths(llava_row(llava_item(image="a.jpg", images=["a.jpg"]))) == ["a.jpg"]
    assert part(llava_row(llava_item(video_path="a.mp4", start=1, end=2))) == (1000, 2000)
    row = llava_row(llava_item(image="a.jpg", image_path="b.jpg"))
    assert (paths(row), row.unread) == (["a.jpg"], ("image_path",))


@pytest.mark.parametrize(
    "fields",
    [{"audios": ["a.mp3"]}, {"audio": "a.wav"}, {"tools": [{"name": "f"}]}, {"tools": '[{"name": "f"}]'}, {"loss": 0}],
)
def test_a_row_that_cannot_be_followed_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(RowProblem, match=f"the row has '{name}'") as caught:
        video_row(**fields)
    assert caught.value.reason is Reason.FIELD
    turns = llava_item()["conversations"]
    turns[0]["loss"] = False  # a question is not learnt anyway
    assert llava_row({"conversations": turns}).unread == ()
    for name in ("loss", "trainable", "loss_mask"):
        turns[1] = {"from": "gpt", "value": "a", name: False}
        with pytest.raises(RowProblem, match=f"an answer has '{name}' False"):
            llava_row({"conversations": turns})


def test_fields_that_nothing_reads_are_told_and_harmless_or_empty_ones_are_not() -> None:
    harmless = {"id": 1, "data_source": "x", "width": 3, "duration": 9.5, "split": "train", "question_type": "oe"}
    empty = {"audios": [], "audio": None, "tools": "[]", "start": None, "image": "", "weight": 1}
    assert video_row(**harmless, **empty, video_id="a").unread == ()
    assert video_row(fps=2, rejected_response="b").unread == ("fps", "rejected_response")
    assert video_row(frame_idx=[1, 2]).unread == ("frame_idx",), "it chooses frames"
    assert video_row(meta={"fps": 2, "id": 3, "split": [1, 2]}).unread == ("meta.fps",)
    assert llava_row(llava_item(image="a.jpg", start=1)).unread == ("start",)
    assert llava_row(llava_item(video_id="a")).unread == ("video_id",), "perhaps it was to name the video"
    turns = llava_item()["conversations"]
    turns[1]["thought"] = "hm"
    assert llava_row({"conversations": turns}).unread == ("turn.thought",)
    assert pllava_row({"video": "a.mp4", "QA": [{"q": "a", "a": "b", "c": "d"}]}).unread == ("QA.c",)


@pytest.mark.parametrize(
    "mark",
    [
        "<Image>",
        "<VIDEO>",
        "<image_1>",
        "<image 1>",
        "<|image_1|>",
        "<ImageHere>",
        "<VideoHere>",
        "<|video_pad|>",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<start_of_image>",
        "<image_placeholder>",
        "<image_soft_token>",
    ],
)
def test_marks_of_other_projects_stand_for_the_rows_media(mark: str) -> None:
    row = llava_row(llava_item(f"{mark}\nwhat ?", video="a.mp4"))
    assert (row.turns[0].content, row.unread) == ("<video>\nwhat ?", ())
    row = llava_row(llava_item(f"look at {mark} and say", image="a.jpg"))
    assert (row.turns[0].content, row.unread) == ("<video>\nlook at and say", ())


def test_marks_that_nothing_is_put_in_for_are_told() -> None:
    row = llava_row(llava_item("<video><audio>What does <ref-object> say? <|im_end|>", video="a.mp4"))
    assert row.turns[0].content == "<video>\n<audio>What does <ref-object> say? <|im_end|>"
    assert row.unread == ("<audio>", "<ref-object>", "<|im_end|>")
    assert llava_row(llava_item("write <Image> and <b>")).unread == ("<Image>",)
    row = llava_row(llava_item("<im_start><video><im_end>what ?</s><end_of_turn>", video="a.mp4"))
    assert row.unread == ("</s>", "<end_of_turn>", "<im_end>", "<im_start>")


@pytest.mark.parametrize("text", ["<image_1> or <image_2> ?", "and <image_2> ?", "<|image_3|>"])
def test_texts_that_number_several_pictures_are_several_media(text: str) -> None:
    with pytest.raises(RowProblem) as caught:
        llava_row(llava_item(text, image="a.jpg"))
    assert caught.value.reason is Reason.SEVERAL_MEDIA


def test_a_row_without_turns_names_what_it_has() -> None:
    with pytest.raises(RowProblem, match="no 'conversations' or 'messages'; it has query, response"):
        llava_row({"query": "a ?", "response": "b"})


def test_nested_values_of_any_depth_are_shown_in_messages() -> None:
    value: Any = "x"
    for _ in range(900):
        value = [value]
    with pytest.raises(RowProblem, match="a turn's role is list"):
        llava_row({"conversations": [{"from": value, "value": "a"}]})
    for name in ("clip", "start", "system", "image"):
        with pytest.raises(RowProblem):
            video_row(**{name: [value, value]})


def test_unread_fields_and_marks_are_counted_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_media(tmp_path, "a.mp4")
    rows = [llava_item(f"{number} <audio> ?", video="a.mp4", fps=2) for number in range(1200)]
    rows += [llava_item("text", persona="x"), llava_item("text", audios=["a.mp3"], persona="x")]
    write_json(tmp_path / "rows.json", rows)
    convert("llava", tmp_path / "rows.json", tmp_path / "out", "--max-missing-rate", 0.5)
    printed = capsys.readouterr().out
    assert "\nfields not read: fps 1,200 rows, persona 1 row\n" in printed
    assert "\nmarks in texts not read: <audio> 1,200 rows\n" in printed
    assert "left out, unsupported field: 1 row; rows#1201: the row has 'audios'" in printed
    assert "\n2 samples in 1 shard\n" in printed
    assert report(tmp_path / "out")["not_read"] == {"fps": 1200, "<audio>": 1200, "persona": 1}
    assert left_out(tmp_path / "out") == [(1201, "unsupported field")]


def test_parts_that_are_named_differently_are_samples_of_their_own(tmp_path: Path) -> None:
    write_media(tmp_path, "a.mp4")
    parts: list[dict[str, Any]] = [
        {"video_start": 0.1, "video_end": 0.5},
        {"start": 0.1, "end": 0.5},
        {"clip": [0.2, 1]},
    ]
    write_json(
        tmp_path / "rows.json", [llava_item(f"{number} ?", video="a.mp4", **part) for number, part in enumerate(parts)]
    )
    convert("llava", tmp_path / "rows.json", tmp_path / "out")
    found = [(one.record.start_ms, one.record.end_ms, len(said(one))) for one in read_samples(tmp_path / "out")]
    assert found == [(100, 500, 2), (200, 1000, 1)]
