"""Samples with several media: numbered members, marks in texts, facts about each, and the index."""

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules.errors import SampleError, ShardError, VideoMarkError
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import Record, parse_record
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.datamodules.several_media import record_of, write_several
from tests.fixtures_data import make_clip, make_image, make_record, make_samples, write_members, write_shard

CLIP, PICTURE = make_clip(4), make_image()
THREE = MediaCount(3, is_numbered=True)


def parse(record: dict[str, Any], media: MediaCount = THREE) -> Record:
    return parse_record(json.dumps(record).encode(), where="shard x.tar, key 'a'", media=media)


def write(folder: Path, record: dict[str, Any]) -> Path:
    """A shard with one sample of a picture, a clip and another picture."""
    return write_several(folder / "x.tar", [("a", record, [(PICTURE, "png"), (CLIP, "mp4"), (make_image(9), "jpg")])])


def test_marks_without_numbers_show_the_media_in_their_order() -> None:
    (conversation,) = parse(record_of("<video> <video>\nor <video> ?")).conversations
    assert conversation.media == (0, 1, 2)


def test_numbered_marks_show_some_of_the_media_in_any_order() -> None:
    first, second = parse(record_of("is <video_2> like <video_0> ?", "what is <video_1> ?")).conversations
    assert (first.media, second.media) == ((2, 0), (1,))
    assert first.turns[0].content == "is <video> like <video> ?"


def test_marks_may_be_spread_over_the_questions_of_a_conversation() -> None:
    record = record_of("<video_1> ?")
    record["conversations"][0]["turns"] += [
        {"role": "user", "content": "and <video_0> ?"},
        {"role": "assistant", "content": "blue"},
    ]
    (conversation,) = parse(record).conversations
    assert conversation.media == (1, 0)
    assert [turn.content for turn in conversation.turns if turn.role == "user"] == ["<video> ?", "and <video> ?"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("which ?", "0 times <video> in the user's turns; a sample with 3 media needs 3; to show some of them, number"),
        ("<video><video> ?", "2 times <video> in the user's turns; a sample with 3 media needs 3"),
        ("<video> and <video_1> ?", "<video> beside numbered marks such as <video_1>; number all marks"),
        ("<video_3> ?", "<video_3> in the text, but the media members of the sample are numbered from 0 to 2"),
        ("<video_1> or <video_1> ?", "<video_1> is in the text more than once"),
    ],
)
def test_marks_that_do_not_fit_the_media_are_refused(question: str, message: str) -> None:
    with pytest.raises(VideoMarkError) as caught:
        parse(record_of(question))
    assert message in str(caught.value)
    assert "key 'a', conversation 0" in str(caught.value)


@pytest.mark.parametrize("answer", ["<video>", "<video_1>"])
def test_a_mark_in_an_answer_is_refused(answer: str) -> None:
    record = make_record([("<video><video><video> ?", answer)], media=False)
    with pytest.raises(VideoMarkError, match="outside the user's turns"):
        parse(record)


@pytest.mark.parametrize("media", [MediaCount(0), MediaCount(1)])
def test_numbered_marks_are_plain_text_where_members_have_no_number(media: MediaCount) -> None:
    """Shards of earlier versions may have such words in their texts."""
    question = "<video>\nwhat is <video_2> ?" if media.num_media else "what is <video_2> ?"
    (conversation,) = parse(record_of(question), media).conversations
    assert conversation.turns[0].content == question
    assert conversation.media == tuple(range(media.num_media))


def test_facts_are_read_for_every_medium_and_come_back_from_json() -> None:
    media = [{"meta": {"width": 64}}, {"start_ms": 100, "end_ms": 900, "meta": {"num_frames": 4}}, {}]
    record = parse(record_of("<video_2><video_0> ?", "<video><video><video> ?", meta={"length": "8x"}, media=media))
    assert record.medium(1) == (100, 900, {"num_frames": 4})
    assert record.medium(2) == (None, None, {})
    assert record.meta == {"length": "8x"}
    assert parse(record.to_json()) == record


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"start_ms": 5}, "start_ms is about one medium, but the members are numbered"),
        ({"meta": {"duration_ms": 5}}, "meta.duration_ms is about one medium"),
        ({"media": {}}, "'media' must be a JSON list, got dict"),
        ({"media": [{}]}, "'media' has 1 entries for 3 media; write one for each"),
        ({"media": [{}, 7, {}]}, "medium 1: an entry of 'media' must be a JSON object, got int"),
        ({"media": [{}, {}, {"start_ms": 5, "end_ms": 5}]}, "medium 2: start_ms 5 and end_ms 5 do not span"),
        ({"media": [{"meta": {"a": []}}, {}, {}]}, "medium 0: meta 'a' must be a number or a string"),
    ],
)
def test_wrong_facts_about_media_are_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError) as caught:
        parse(record_of("<video><video><video> ?", **extra))
    assert message in str(caught.value)


def test_a_field_media_of_a_sample_with_one_medium_is_left_alone() -> None:
    assert parse(make_record(media_list=1, media=True) | {"media": "cats/1.mp4"}, MediaCount(1)).media == ()


def test_written_media_are_read_in_order_with_their_facts(tmp_path: Path) -> None:
    facts = [{}, {"start_ms": 250}, {"meta": {"media": "9.jpg"}}]
    raw = ShardReader([load_index(write(tmp_path, record_of("<video><video><video> ?", media=facts)))]).read(0)
    assert [medium.ending for medium in raw.media] == ["png", "mp4", "jpg"]
    assert [medium.content.read() for medium in raw.media] == [PICTURE, CLIP, make_image(9)]
    assert [medium.facts.start_ms for medium in raw.media] == [None, 250, None]
    assert raw.media[2].facts.meta == {"media": "9.jpg"}
    assert raw.media[1].where.endswith("key 'a', member '1.mp4'")


def test_webdataset_groups_numbered_members_into_one_sample(tmp_path: Path) -> None:
    path = write(tmp_path, record_of("<video><video><video> ?"))
    (sample,) = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    assert {name for name in sample if not name.startswith("__")} == {"0.png", "1.mp4", "2.jpg", "json"}


def test_media_may_be_in_any_order_in_the_tar(tmp_path: Path) -> None:
    members = [(f"a.{number}.png", make_image(number)) for number in (10, 2, 0, 1, 9, 8, 7, 6, 5, 4, 3)]
    members.append(("a.json", json.dumps(record_of("<video_10> ?")).encode()))
    raw = ShardReader([load_index(write_members(tmp_path / "x.tar", members))]).read(0)
    assert [medium.content.read() for medium in raw.media] == [make_image(number) for number in range(11)]


def test_a_single_numbered_member_is_one_medium(tmp_path: Path) -> None:
    members = [("a.0.png", PICTURE), ("a.json", json.dumps(record_of("<video> ?", "<video_0> ?")).encode())]
    shards = ShardReader([load_index(write_members(tmp_path / "x.tar", members))])
    assert [conversation.media for conversation in shards.read(0).record.conversations] == [(0,), (0,)]
    assert shards.entry(0).modality == "image"


@pytest.mark.parametrize(
    ("endings", "message"),
    [
        (["0.png", "2.png"], "its media members are 0.png, 2.png; number them from 0, each number once"),
        (["1.png"], "its media members are 1.png; number them from 0"),
        (["0.png", "0.jpg"], "number them from 0, each number once"),
        (["png", "0.png"], r"several media members (png, 0.png); a sample has one, or several that are numbered"),
        (["0.png", "1.safetensors"], "cached features beside videos or pictures (0.png, 1.safetensors)"),
    ],
)
def test_members_that_are_not_numbered_through_make_a_wrong_sample(
    endings: list[str], message: str, tmp_path: Path
) -> None:
    members = [(f"a.{ending}", b"x") for ending in endings]
    path = write_members(tmp_path / "x.tar", [*members, ("a.json", json.dumps(record_of("<video> ?")).encode())])
    with pytest.raises(SampleError) as caught:
        ShardReader([load_index(path)]).read(0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["a.00.png", "a.01.png", "a.-1.png", "a.1e1.png", "a.0x1.png", "a.1000.png", "a.\u0663.png", "a. 1.png",
     "a.0.1.png", "a.0.json", "a.0.pkl", "a.0.pth", "a.0.", "a.0", "a.0.png.gz", "a..png", "../a.0.png", "/a.0.png"],
)  # fmt: skip
def test_a_member_with_a_hostile_number_or_ending_is_refused(name: str, tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.tar", [("good.json", b"{}"), (name, b"x")])
    with pytest.raises(ShardError, match="is refused"):
        load_index(path)


def test_the_index_states_what_every_conversation_shows_and_how_long_that_is(tmp_path: Path) -> None:
    facts = [{}, {"meta": {"num_frames": 4, "duration_ms": 1000}}, {}]
    path = write(tmp_path, record_of("<video_1> ?", "<video_1><video_0> ?", media=facts))
    (entry,) = load_index(path).entries
    assert (entry.modality, entry.num_media, entry.num_frames) == ("video", (1, 2), 5)
    assert [medium.ending for medium in entry.used_media] == ["0.png", "1.mp4"]
    (again,) = load_index(path).entries
    assert again == entry


def test_the_index_of_samples_with_one_medium_is_as_earlier_versions_wrote_it(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", make_samples(2))
    load_index(path)
    rows = json.loads(path.with_name("x.tar.index.json").read_bytes())["samples"]
    assert [len(row) for row in rows] == [6, 6]
    assert [sorted(row[1]) for row in rows] == [["json", "mp4"]] * 2


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row[6].pop(),
        lambda row: row[7].pop(),
        lambda row: row[7][0].append(3),
        lambda row: row[1].pop("1.mp4"),
        lambda row: row.pop(),
        lambda row: row[1].update({"3.pkl": [0, 1]}),
    ],
    ids=["facts", "shown", "unknown medium", "gap", "no shown", "pickle"],
)
def test_an_index_that_contradicts_itself_is_damaged(change: Any, tmp_path: Path) -> None:
    path = write(tmp_path, record_of("<video><video><video> ?"))
    index = load_index(path)
    row = json.loads(index.entries._rows)
    change(row)
    damaged = type(index.entries)(str(path), json.dumps(row).encode() + b"\n")
    with pytest.raises(ShardError, match="its index is damaged"):
        list(damaged)
