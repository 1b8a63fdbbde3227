import copy
import json
from typing import Any

import pytest

from datamodules.errors import SampleError
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import parse_record
from tests.fixtures_data import make_record

ONE = MediaCount(1)


def parse(document: Any, media: MediaCount = ONE) -> Any:
    return parse_record(json.dumps(document).encode(), where="shard x.tar, key 'a'", media=media)


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(make_record())
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def turns(*spoken: tuple[str, str]) -> dict[str, Any]:
    return changed(("conversations", 0, "turns"), [{"role": role, "content": content} for role, content in spoken])


def test_every_field_arrives() -> None:
    document = make_record(meta={"length": "8x", "num_frames": 4, "rate": 0.5}, start_ms=100, end_ms=900)
    document["conversations"][0] |= {"options": ["red", "blue"]}
    record = parse(document)
    assert (record.source, record.start_ms, record.end_ms) == ("made", 100, 900)
    assert record.meta == {"length": "8x", "num_frames": 4, "rate": 0.5}
    assert record.conversations[0].options == ("red", "blue")
    assert record.conversations[0].category == "colour"


def test_a_record_comes_back_from_its_json() -> None:
    document = make_record(meta={"length": "8x"}, start_ms=100, end_ms=900)
    assert parse(parse(document).to_json()) == parse(document)


@pytest.mark.parametrize(
    ("fields", "category"),
    [({"kind": "colour"}, "colour"), ({"kind": "a", "category": "b"}, "b"), ({}, "")],
    ids=["earlier shards", "both", "none"],
)
def test_the_category_of_a_question_is_named_kind_in_shards_of_earlier_versions(
    fields: dict[str, str], category: str
) -> None:
    document = make_record()
    [conversation] = document["conversations"]
    del conversation["category"]
    conversation |= fields
    record = parse(document)
    assert record.conversations[0].category == category
    assert record.to_json()["conversations"][0]["category"] == category


def test_a_category_must_be_a_string_whatever_its_name() -> None:
    for name in ("category", "kind"):
        document = make_record()
        document["conversations"][0].pop("category")
        document["conversations"][0][name] = 3
        with pytest.raises(SampleError, match=f"'{name}' must be a string"):
            parse(document)


def test_absurd_numbers_and_depths_are_malformed_json() -> None:
    for text in ('{"meta": ' + "9" * 5000 + "}", "[" * 100_000):
        with pytest.raises(SampleError, match="malformed JSON"):
            parse_record(text.encode(), where="key 'a'", media=MediaCount(0))


def test_several_turns_with_a_system_text_are_fine() -> None:
    document = turns(
        ("system", "you are a model"),
        ("user", "hello"),
        ("assistant", "hello"),
        ("user", "<video> ?"),
        ("assistant", "no"),
    )
    assert len(parse(document).conversations[0].turns) == 5


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the JSON must be a JSON object, got list"),
        ({"source": "x"}, "'conversations' must be a JSON list, got nothing"),
        (changed(("conversations",), []), "'conversations' is empty"),
        (changed(("conversations",), {"a": 1}), "'conversations' must be a JSON list, got dict"),
        (changed(("source",), 3), "'source' must be a string, got int"),
        (changed(("conversations", 0), "hello"), "conversation 0: a conversation must be a JSON object"),
        (changed(("conversations", 0, "id"), None), "conversation 0: 'id' must be a string, got nothing"),
        (changed(("conversations", 0, "turns"), []), "no assistant turn"),
        (changed(("conversations", 0, "turns", 0, "content"), 5), "'content' must be a string"),
        (changed(("conversations", 0, "options"), [1]), "'options' must be strings"),
        (turns(("user", "<video>which ?")), "no assistant turn, so nothing to learn"),
        (turns(("user", "<video>"), ("assistant", " ")), "an assistant turn is empty"),
        (turns(("assistant", "red")), "the turns are assistant; expected"),
        (turns(("user", "<video>"), ("assistant", "a"), ("user", "b")), "ending with the assistant"),
        (turns(("user", "<video>"), ("gpt", "a"), ("assistant", "a")), "the turns are user, gpt, assistant"),
        (turns(("user", "which ?"), ("assistant", "red")), "0 times <video> in the user's turns; a sample with media"),
        (turns(("user", "<video> <video>"), ("assistant", "red")), "2 times <video>"),
        (turns(("user", "<video>"), ("assistant", "<video>")), "<video> is outside the user's turns"),
        (changed(("start_ms",), 1.5), "'start_ms' must be whole milliseconds, got 1.5"),
        (changed(("start_ms",), -1), "do not span a part"),
        (changed(("start_ms",), 5) | {"end_ms": 5}, "start_ms 5 and end_ms 5 do not span"),
        (changed(("meta",), {"a": [1]}), "meta 'a' must be a number or a string"),
        (changed(("meta",), {"a": float("nan")}), "meta 'a' must be a finite number"),
        (changed(("meta",), {"num_frames": 1e30}), "meta 'num_frames' must be a whole number"),
        (changed(("source",), "\ud800"), "'source' holds half a character"),
    ],
)
def test_a_wrong_record_says_where_and_what(document: Any, message: str) -> None:
    with pytest.raises(SampleError, match=r"shard x\.tar, key 'a'") as caught:
        parse(document)
    assert message in str(caught.value)


def test_a_mark_without_media_is_an_error() -> None:
    with pytest.raises(SampleError, match="<video> in the text, but the sample has no media member"):
        parse(make_record(), MediaCount(0))
