import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.rows import Row, conversation_json, llava_row, pllava_row
from tests.datamodules.convert.conversions import llava_item, part


def contents(row: Row) -> list[str]:
    return [turn.content for turn in row.turns]


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in said]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\nwhat ?", "<video>\nwhat ?"),
        ("what ?\n<video>", "<video>\nwhat ?"),
        ("look at <image> and say", "<video>\nlook at and say"),
        ("<image><video> <image>\nwhat ?", "<video>\nwhat ?"),
        ("what ?", "<video>\nwhat ?"),
        ("<image>", "<video>"),
    ],
)
def test_the_placeholder_stands_once_in_front_of_the_first_question(question: str, expected: str) -> None:
    assert contents(llava_row(llava_item(question, video="a.mp4")))[0] == expected


def test_placeholders_in_later_questions_are_taken_out() -> None:
    said = turns(("human", "<image>\na ?"), ("gpt", "b"), ("human", "<image>\nc ?"), ("gpt", "d"))
    assert contents(llava_row({"image": "a.jpg", "conversations": said})) == ["<video>\na ?", "b", "c ?", "d"]


def test_other_names_for_roles_and_fields_are_read() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a ?"},
        {"role": "assistant", "content": "b"},
    ]
    row = llava_row({"messages": messages, "videos": ["a.mp4"], "image": None})
    assert [tuple(turn) for turn in row.turns] == [
        ("system", "be brief"),
        ("user", "<video>\na ?"),
        ("assistant", "b"),
    ]
    assert [medium.path for medium in row.media] == ["a.mp4"]


def test_an_answer_before_the_first_question_is_dropped_as_llava_does() -> None:
    said = turns(("gpt", "hello"), ("human", "a ?"), ("gpt", "b"))
    assert contents(llava_row({"conversations": said})) == ["a ?", "b"]


def test_start_and_end_become_milliseconds_of_videos_only() -> None:
    assert part(llava_row(llava_item(video="a.mp4", start=1, end=2.5))) == (1000, 2500)
    assert part(llava_row(llava_item(video="a.mp4", end=2.5))) == (None, 2500)
    assert part(llava_row(llava_item(image="a.jpg", start=1, end=2.5))) == (None, None)


@pytest.mark.parametrize(
    ("qa", "expected"),
    [
        ([{"i": "brief", "q": "a ?", "a": "b"}], ["brief", "<video>\na ?", "b"]),
        ([{"i": "", "q": "a ?", "a": "b"}], ["<video>\na ?", "b"]),
        ([{"q": "a ?", "a": "b"}], ["<video>\na ?", "b"]),
        ([{"i": "describe", "q": "", "a": "b"}], ["<video>\ndescribe", "b"]),
        ([{"i": "", "q": None, "a": "b"}], ["<video>", "b"]),
        ([{"q": "a ?", "a": "b"}, {"i": "ignored", "q": "c ?", "a": "d"}], ["<video>\na ?", "b", "c ?", "d"]),
    ],
)
def test_pllava_instructions_become_the_system_text_or_the_missing_question(
    qa: list[dict[str, Any]], expected: list[str]
) -> None:
    assert contents(pllava_row({"video": "a.mp4", "QA": qa})) == expected


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("text", Reason.MALFORMED),
        ({}, Reason.MALFORMED),
        ({"conversations": "hello"}, Reason.MALFORMED),
        ({"conversations": ["hello"]}, Reason.MALFORMED),
        ({"conversations": [{"from": "robot", "value": "a"}]}, Reason.MALFORMED),
        (llava_item(answer=3), Reason.MALFORMED),
        (llava_item(video=["a.mp4", {"path": "b"}]), Reason.MALFORMED),
        ({"conversations": []}, Reason.TURNS),
        ({"conversations": turns(("human", "a ?"))}, Reason.TURNS),
        ({"conversations": turns(("human", "a ?"), ("gpt", "b"), ("human", "c ?"))}, Reason.TURNS),
        ({"conversations": turns(("human", "a ?"), ("human", "b ?"), ("gpt", "c"))}, Reason.TURNS),
        ({"conversations": turns(("human", "a ?"), ("system", "b"), ("gpt", "c"))}, Reason.TURNS),
        (llava_item(answer=" "), Reason.EMPTY_TURN),
        (llava_item(question=""), Reason.EMPTY_TURN),
        (llava_item(image=["a.jpg", "b.jpg"]), Reason.SEVERAL_MEDIA),
        (llava_item(image="a.jpg", video="b.mp4"), Reason.SEVERAL_MEDIA),
        (llava_item("<image>\nwhat ?"), Reason.PLACEHOLDER),
        (llava_item(answer="use <video>"), Reason.PLACEHOLDER),
        (llava_item(video="a.mp4", start=2, end=1), Reason.SPAN),
        (llava_item(video="a.mp4", start="soon"), Reason.SPAN),
        (llava_item(video="a.mp4", start=float("nan")), Reason.SPAN),
        (llava_item(video="a.mp4", end=-1), Reason.SPAN),
    ],
)
def test_unusable_llava_rows_have_a_reason(item: Any, reason: Reason) -> None:
    with pytest.raises(RowProblem) as caught:
        llava_row(item)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"QA": [{"q": "a ?", "a": "b"}]}, Reason.MALFORMED),
        ({"video": "None", "QA": [{"q": "a ?", "a": "b"}]}, Reason.MALFORMED),
        ({"video": "a.mp4"}, Reason.MALFORMED),
        ({"video": "a.mp4", "QA": []}, Reason.TURNS),
        ({"video": "a.mp4", "QA": [{"q": "a ?"}]}, Reason.MALFORMED),
        ({"video": "a.mp4", "QA": [{"q": "a ?", "a": "b"}, {"q": "", "a": "c"}]}, Reason.EMPTY_TURN),
    ],
)
def test_unusable_pllava_rows_have_a_reason(item: Any, reason: Reason) -> None:
    with pytest.raises(RowProblem) as caught:
        pllava_row(item)
    assert caught.value.reason is reason


def test_half_characters_are_a_wrong_encoding() -> None:
    with pytest.raises(RowProblem) as caught:
        conversation_json(llava_row(llava_item("\ud800 ?")), "x#0", "")
    assert caught.value.reason is Reason.ENCODING


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("<image>")
FIELDS = st.sampled_from(
    ["conversations", "messages", "from", "value", "role", "content", "image", "video", "QA", "q", "a", "i", "start"]
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["human", "gpt", "a.mp4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(item=ANYTHING)
def test_any_json_is_a_conversation_or_a_problem(item: Any) -> None:
    for read in (llava_row, pllava_row):
        with contextlib.suppress(RowProblem):
            text = conversation_json(read(item), "x#0", "")
            assert json.loads(text)["turns"][-1]["role"] == "assistant"
