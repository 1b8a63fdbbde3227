"""Rows that name several images or videos: LLaVA-NeXT's interleaved rows, Qwen's lists, numbered members of a tar."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.convert.planned_samples import SampleIdentity
from datamodules.convert.row_media import RowMedium
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.rows import Row, conversation_json, llava_row, pllava_row
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import parse_conversation
from datamodules.shards.shard_reader import RawSample
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    left_out,
    llava_item,
    read_samples,
    said,
    shard_bytes,
    write_json,
    write_media,
)
from tests.datamodules.convert.webdataset_tars import convert_tar, in_json, messages
from tests.fixtures_data import make_image

A, B, CAT = make_image(10, form="jpeg"), make_image(90, form="jpeg"), CLIP
BOTH = {"images": ["a.jpg", "b.jpg"], "videos": ["cat.mp4"]}


def paths(row: Row) -> list[str]:
    return [medium.path for medium in row.media]


def question(row: Row) -> str:
    return next(turn.content for turn in row.turns if turn.role == "user")


def contents(sample: RawSample) -> list[bytes]:
    return [medium.content.read() for medium in sample.media]


def convert_rows(folder: Path, *rows: dict[str, Any], status: int = 0) -> list[RawSample]:
    for name, data in (("a.jpg", A), ("b.jpg", B), ("cat.mp4", CAT)):
        (folder / name).write_bytes(data)
    convert("llava", write_json(folder / "rows.json", list(rows)), folder / "out", status=status)
    return read_samples(folder / "out")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("<image>\n<image>\nwhich ?", "<video>\n<video>\nwhich ?"),
        ("is <image> like <image> ?", "is <video> like <video> ?"),
        ("<image><image>which ?", "<video><video>which ?"),
        ("<|vision_start|><|image_pad|><|vision_end|> <ImageHere> ?", "<video> <video> ?"),
        ("<video>\n<image> ?", "<video>\n<video> ?"),
    ],
)
def test_every_mark_of_one_list_shows_the_next_of_its_media(asked: str, expected: str) -> None:
    row = llava_row(llava_item(asked, image=["a.jpg", "b.jpg"]))
    assert (paths(row), question(row), row.unread) == (["a.jpg", "b.jpg"], expected, ())


def test_marks_may_be_in_later_questions() -> None:
    turns = [("human", "<image> ?"), ("gpt", "a"), ("human", "and <image> ?"), ("gpt", "b")]
    row = llava_row(
        {"conversations": [{"from": who, "value": text} for who, text in turns], "image": ["a.jpg", "b.jpg"]}
    )
    assert [turn.content for turn in row.turns] == ["<video> ?", "a", "and <video> ?", "b"]


def test_images_and_videos_come_in_the_order_of_their_marks() -> None:
    messages = [
        {"role": "user", "content": "<image>\n<video>\nthen <image> ?"},
        {"role": "assistant", "content": "a star"},
    ]
    row = llava_row({"messages": messages, **BOTH})
    assert paths(row) == ["a.jpg", "cat.mp4", "b.jpg"]
    assert [medium.named_as for medium in row.media] == ["image", "video", "image"]
    assert question(row) == "<video>\n<video>\nthen <video> ?"


def test_a_list_may_name_a_picture_twice_and_videos_too() -> None:
    row = llava_row(llava_item("<image><image><image> ?", image=["a.jpg", "cat.mp4", "a.jpg"]))
    assert paths(row) == ["a.jpg", "cat.mp4", "a.jpg"]
    assert [medium.named_as for medium in row.media] == ["image", "video", "image"]


def test_a_field_that_repeats_a_part_of_the_list_adds_nothing() -> None:
    row = llava_row(llava_item("<image><image> ?", image="a.jpg", images=["b.jpg", "a.jpg"]))
    assert (paths(row), row.unread) == (["b.jpg", "a.jpg"], ())


def test_the_part_of_the_only_video_is_its_own() -> None:
    row = llava_row(llava_item("<image><image><video> ?", **BOTH, start=0.5, end=1))
    assert [medium[2:4] for medium in row.media] == [(None, None), (None, None), (500, 1000)]
    assert row.unread == ()


def test_pllava_rows_may_name_several_media_too() -> None:
    row = pllava_row({"image": ["a.jpg", "b.jpg"], "QA": [{"q": "<image> or <image> ?", "a": "b"}]})
    assert (paths(row), question(row)) == (["a.jpg", "b.jpg"], "<video> or <video> ?")


@pytest.mark.parametrize(
    ("item", "reason", "message"),
    [
        (llava_item("<image> ?", image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA, "hold 1 <image>; expected one mark"),
        (llava_item("what ?", image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA, "(2 by 'image'), but the user's turns"),
        (llava_item("<image>" * 3 + " ?", image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA, "hold 3 <image>"),
        (llava_item("<image><video><video> ?", **BOTH), Reason.SEVERAL_MEDIA, "(1 by 'video' and 2 by 'image')"),
        (llava_item("<image_1><image_2> ?", image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA, "numbers images or"),
        (llava_item("<image><image> ?", "<video>", image=["a.jpg", "b.jpg"]), Reason.PLACEHOLDER, "outside the user's"),
        (llava_item("<image><image> ?", image="a.jpg", images=["b.jpg"]), Reason.SEVERAL_MEDIA, "in one list"),
        (llava_item("<image><image> ?", image_path="a.jpg", media="b.jpg"), Reason.SEVERAL_MEDIA, "use one list"),
        (llava_item("<video><video> ?", video=["a.mp4", "b.mp4"], start=1, end=2), Reason.SPAN, "names 2 videos"),
        (llava_item("<image><image> ?", image=["a.jpg", ["b.jpg"]]), Reason.MALFORMED, "'image' must be a string"),
    ],
)  # fmt: skip
def test_rows_whose_media_and_marks_do_not_fit_are_refused(item: Any, reason: Reason, message: str) -> None:
    with pytest.raises(RowProblem) as caught:
        llava_row(item)
    assert caught.value.reason is reason
    assert message in str(caught.value)


def test_media_are_written_in_order_and_read_back(tmp_path: Path) -> None:
    (sample,) = convert_rows(
        tmp_path, llava_item("<image>\n<video> or <image> ?", images=["b.jpg", "a.jpg"], video="cat.mp4", start=0.5)
    )
    assert [medium.ending for medium in sample.media] == ["jpg", "mp4", "jpg"]
    assert contents(sample) == [B, CAT, A]
    assert said(sample) == [["<video>\n<video> or <video> ?", "a star"]]
    assert sample.record.conversations[0].media == (0, 1, 2)
    assert sample.record.meta == {}
    assert [medium.facts.meta for medium in sample.media] == [
        {"media": "b.jpg", "width": 64, "height": 48},
        {"media": "cat.mp4", "width": 64, "height": 48, "duration_ms": 1500},
        {"media": "a.jpg", "width": 64, "height": 48},
    ]
    assert [medium.facts.start_ms for medium in sample.media] == [None, 500, None]


def test_rows_about_the_same_media_in_the_same_order_are_one_sample(tmp_path: Path) -> None:
    samples = convert_rows(
        tmp_path,
        llava_item("<image><image> ?", image=["a.jpg", "b.jpg"]),
        llava_item("<image> ?", image="a.jpg"),
        llava_item("or <image> <image> ?", images=["a.jpg", "b.jpg"]),
        llava_item("<image><image> ?", image=["b.jpg", "a.jpg"]),
        llava_item("<image> ?", image=["a.jpg"]),
    )
    assert [contents(sample) for sample in samples] == [[A, B], [A], [B, A]]
    assert [len(sample.record.conversations) for sample in samples] == [2, 2, 1]


def test_a_row_with_one_bad_medium_is_left_out_with_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(A[:200])
    samples = convert_rows(
        tmp_path,
        llava_item("<image><image> ?", image=["a.jpg", "cut.jpg"]),
        llava_item("<image><image> ?", image=["none.jpg", "a.jpg"]),
        llava_item("<image><image> ?", image=["../a.jpg", "a.jpg"]),
        llava_item("<image><image> ?", image=["a.jpg", "b.jpg"]),
        status=1,
    )
    assert [contents(sample) for sample in samples] == [[A, B]]
    reasons = [(0, "damaged media"), (1, "missing media"), (2, "refused path")]
    assert left_out(tmp_path / "out") == reasons
    assert not list((tmp_path / "out").glob(".*.scratch"))


def test_a_stopped_conversion_continues_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_media(tmp_path, "a.jpg", "b.jpg", "cat.mp4")
    asked = [llava_item(f"<image><image><video> {number} ?", **BOTH, start=number / 10) for number in range(8)]
    rows = write_json(tmp_path / "rows.json", [*asked, llava_item("hello"), llava_item(image="a.jpg")])
    options = ("--max-samples", 2, "--reencode", "16")
    convert("llava", rows, tmp_path / "whole", *options)
    with monkeypatch.context() as patched:
        written = 0

        def stop(*args: object) -> None:
            nonlocal written
            written += 1
            if written > 3:
                raise KeyboardInterrupt

        patched.setattr("datamodules.convert.conversion_run._unreadable", stop)
        with pytest.raises(KeyboardInterrupt):
            convert("llava", rows, tmp_path / "out", *options)
    convert("llava", rows, tmp_path / "out", *options)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert len(read_samples(tmp_path / "out")) == 10


def test_the_name_of_a_sample_with_one_medium_is_as_in_earlier_versions() -> None:
    folders = ("videos",)
    one = SampleIdentity((RowMedium("a.mp4", "video", 500, None),), folders)
    assert one.digest({folders: 0}).hex() == "1e708cc3b667f21e0c1dd48af00cf266"
    text = SampleIdentity((), (), "rows#3")
    assert text.digest({(): -1}).hex() == "459ba98eff94672c0e04b316af4000ab"


def test_numbered_members_of_a_tar_are_one_sample(tmp_path: Path) -> None:
    members = [
        ("1.1.jpg", B),
        ("1.0.jpg", A),
        ("1.json", in_json(llava_item("<image> or <image> ?", image=["x/1.jpg", "x/2.jpg"]))),
        ("2.1.mp4", CAT),
        ("2.2.jpg", A),
        ("2.txt", b"A star, then a square."),
    ]
    two, caption = convert_tar(tmp_path, members)
    assert (contents(two), said(two)) == ([A, B], [["<video> or <video> ?", "a star"]])
    assert (contents(caption), said(caption)) == ([CAT, A], [["<video>\n<video>", "A star, then a square."]])
    assert [medium.facts.meta["media"] for medium in caption.media] == ["2.1.mp4", "2.2.jpg"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["1.0.jpg", "1.2.jpg"], "has 2 media members (0.jpg, 2.jpg); number them without gaps"),
        (["1.2.jpg", "1.3.jpg"], "number them without gaps"),
        (["1.0.jpg", "1.0.png"], "number them without gaps"),
        (["1.jpg", "1.0.jpg"], "number them without gaps"),
        (["1.a.jpg", "1.b.jpg"], "number them without gaps"),
        (["1.0.jpg", "1.1.jpg"], "the JSON names 3 images or videos, but 2 of its key are beside it"),
    ],
)
def test_members_whose_order_is_unknown_are_left_out(members: list[str], message: str, tmp_path: Path) -> None:
    row = llava_item("<image><image> ?", image=["a", "b", "c"])
    convert_tar(tmp_path, [*((name, PICTURE) for name in members), ("1.json", in_json(row))], status=1)
    assert left_out(tmp_path / "out", "webdataset") == [(0, "several media")]
    assert message in messages(tmp_path / "out")


MARKS = st.lists(
    st.sampled_from(["<image>", "<video>", " ", "which ?", "<image_1>", "<video_0>", "<|image_pad|>", "\n", "<", "a"]),
    max_size=8,
).map("".join)
LISTS = st.lists(st.sampled_from(["a.jpg", "b.jpg", "cat.mp4", "c"]), max_size=4)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(MARKS, min_size=1, max_size=3), images=LISTS, videos=LISTS)
def test_a_row_with_any_marks_and_media_fits_or_is_refused(
    texts: list[str], images: list[str], videos: list[str]
) -> None:
    turns = [{"from": who, "value": text} for text in texts for who, text in (("human", text), ("gpt", "b"))]
    with contextlib.suppress(RowProblem):
        row = llava_row({"conversations": turns, "images": images, "videos": videos})
        media = MediaCount(len(row.media), len(row.media) > 1)
        conversation = parse_conversation(json.loads(conversation_json(row, "x", "")), "the row", media)
        assert conversation.media == tuple(range(len(row.media)))
        assert set(paths(row)) == {*images, *videos}
