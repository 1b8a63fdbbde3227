"""Requests are read as they are meant, or refused with the field that is wrong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membridge.serving.api_errors import ApiError
from membridge.serving.chat_request import ChatRequest, MediaPart, read_chat_request
from membridge.serving.request_fields import parse_json
from membridge.serving.serving_limits import ServingLimits

LIMITS = ServingLimits(new_tokens=50, media=3)
VIDEO = {"type": "video_url", "video_url": {"url": "a.mp4"}}
ASK = {"role": "user", "content": "why ?"}


def read(**fields: Any) -> ChatRequest:
    return read_chat_request({"model": "m", "messages": [ASK], **fields}, LIMITS, 20)


def say(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def test_defaults_are_the_models_length_and_the_most_likely_tokens() -> None:
    request = read()
    assert request.turns == [("user", "why ?")]
    assert (request.options.settings.max_new_tokens, request.options.settings.temperature) == (20, 0)
    assert not request.options.streams


def test_sampling_without_a_seed_differs_from_request_to_request() -> None:
    assert read(temperature=1).options.settings.seed != read(temperature=1).options.settings.seed
    assert read(temperature=1, seed=-5).options.settings.seed == -5


def test_media_come_before_the_text_or_at_its_marks() -> None:
    picture = {"type": "image_url", "image_url": {"url": "b.png", "detail": "high"}}
    text = {"type": "text", "text": "first"}
    more = {"type": "text", "text": "second"}
    request = read(messages=[say(text, VIDEO, more, picture)])
    assert request.turns == [("user", "<video>\n<video>\nfirst\nsecond")]
    assert [part.url for part in request.media] == ["a.mp4", "b.png"]
    marked = {"type": "text", "text": "is <video> like <video> ?"}
    assert read(messages=[say(marked, VIDEO, picture)]).turns == [("user", "is <video> like <video> ?")]


def test_a_part_of_a_video_is_read() -> None:
    part = {"type": "video_url", "video_url": {"url": "a.mp4", "start_ms": 5, "end_ms": 9}}
    assert read(messages=[say(part)]).media == [MediaPart("a.mp4", None, 5, 9, "messages[0].content[0]")]


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    read(
        n=1,
        presence_penalty=0,
        logprobs=False,
        tools=[],
        user="me",
        response_format={"type": "text"},
        stop=None,
        foo=None,
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "why ?"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra"),
        ({"messages": [ASK, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [say("x")]}, "messages[0].content[0]"),
        ({"messages": [say({"type": "input_audio"})]}, "messages[0].content[0].type"),
        ({"messages": [say({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [say({"type": "text", "text": "x", "y": 1})]}, "messages[0].content[0].y"),
        ({"messages": [say({"type": "video_url"})]}, "messages[0].content[0].video_url"),
        ({"messages": [say({"type": "video_url", "video_url": {}})]}, "messages[0].content[0].video_url.url"),
        ({"messages": [say({"type": "file", "file": {"file_data": "x"}})]}, "messages[0].content[0].file.file_id"),
        (
            {"messages": [say({**VIDEO, "video_url": {"url": "a", "start_ms": -1}})]},
            "messages[0].content[0].video_url.start_ms",
        ),
        (
            {"messages": [say({**VIDEO, "video_url": {"url": "a", "start_ms": 5, "end_ms": 5}})]},
            "messages[0].content[0].video_url.end_ms",
        ),
        ({"messages": [{"role": "user", "content": "a <video> ?"}]}, "messages[0]"),
        ({"messages": [say(VIDEO, {"type": "text", "text": "<video> and <video> ?"})]}, "messages[0]"),
        ({"messages": [say(VIDEO, role="assistant"), ASK]}, "messages[0]"),
        ({"messages": [say(VIDEO, VIDEO, VIDEO, VIDEO)]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 51}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 3}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message or caught.value.code in ("turns_refused", "too_many_media", "bad_value")


def test_a_very_long_conversation_is_refused_before_it_is_tokenized() -> None:
    with pytest.raises(ApiError, match="1000000 characters"):
        read(messages=[{"role": "user", "content": "x" * 1_000_001}])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 10_000 + b"}"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body is no JSON"):
        parse_json(body)


TEXTS = st.sampled_from(["", "user", "system", "text", "video_url", "<video>", "\ud800", "a.mp4"])
SINGLE = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(
    SINGLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
NAMES = st.sampled_from(["messages", "role", "content", "type", "text", "video_url", "url", "stop", "seed", "tools"])


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
def test_whatever_a_client_sends_is_read_or_refused(fields: dict[str, Any], message: dict[str, Any]) -> None:
    for body in (fields, {"model": "m", "messages": [message], **{"stop": fields.get("stop")}}):
        try:
            read_chat_request(body, LIMITS, 20)
        except ApiError as error:
            assert 400 <= error.status < 500  # noqa: PT017  some bodies are right


@pytest.mark.parametrize("name", ["waiting", "upload_bytes", "answer_seconds"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        ServingLimits(**{name: 0})
