"""Reads a request for a chat completion: turns, media, and how the answer is chosen."""

import secrets
from typing import Any, NamedTuple

from components.interfaces import DecodingSettings
from membridge.conversation import MARK
from membridge.serving.api_errors import ApiError
from membridge.serving.request_fields import Fields, is_writable
from membridge.serving.serving_limits import ServingLimits

_MOST_MESSAGES = 1000
_MOST_PARTS = 100
_MOST_CHARACTERS = 1_000_000
_MOST_STOPS = 4
_LONGEST_STOP = 200
_LONGEST_MS = 2**53
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MEDIA_PARTS = ("video_url", "image_url")
_IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"}
_IGNORED |= {"prompt_cache_key"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class MediaPart(NamedTuple):
    """A video or picture that a message shows."""

    url: str | None  # a URL, or a path below the server's root
    file_id: str | None  # of an upload; one of the two is None
    start_ms: int | None
    end_ms: int | None
    where: str  # position in the request, for messages


class AnswerOptions(NamedTuple):
    """How an answer is chosen and sent."""

    settings: DecodingSettings
    stop: tuple[str, ...]  # texts before which the answer ends
    streams: bool
    with_usage: bool  # of a streamed answer


class ChatRequest(NamedTuple):
    """A request for a chat completion."""

    model: str
    turns: list[tuple[str, str]]  # role and text; marks in the user's show the media in their order
    media: list[MediaPart]
    options: AnswerOptions


def read_chat_request(body: Any, limits: ServingLimits, default_tokens: int) -> ChatRequest:
    """Read a request.

    Args:
        body: The parsed JSON.
        limits: Limits of the server.
        default_tokens: Longest answer where the request does not say.

    Raises:
        ApiError: The request is wrong, or asks for what is not supported.
    """
    fields = Fields(body)
    model = fields.text("model")
    options = read_answer_options(fields, limits, default_tokens)
    turns: list[tuple[str, str]] = []
    media: list[MediaPart] = []
    for number, message in enumerate(fields.items("messages", _MOST_MESSAGES)):
        role, text, shown = _read_message(message, f"messages[{number}]")
        turns.append((role, text))
        media += shown
    for name, accepted in _NEUTRAL.items():
        fields.only(name, *accepted)
    fields.ignore(_IGNORED)
    fields.finish()
    if turns[-1][0] != "user":
        raise ApiError(400, "the last message must be the user's", code="turns_refused", param="messages")
    if len(media) > limits.media:
        raise ApiError(
            400,
            f"the messages show {len(media)} videos and pictures; this server reads at most {limits.media}",
            code="too_many_media",
            param="messages",
        )
    if sum(len(text) for _, text in turns) > _MOST_CHARACTERS:
        raise ApiError(
            413, f"the messages have more than {_MOST_CHARACTERS} characters; shorten them", param="messages"
        )
    return ChatRequest(model, turns, media, options)


def read_answer_options(fields: Fields, limits: ServingLimits, default_tokens: int) -> AnswerOptions:
    """Read how an answer is chosen and sent.

    Args:
        fields: The request.
        limits: Limits of the server.
        default_tokens: Longest answer where the request does not say.
    """
    most = limits.new_tokens
    tokens = fields.integer("max_tokens", 1, most, min(most, default_tokens))
    tokens = fields.integer("max_completion_tokens", 1, most, tokens)
    temperature = fields.number("temperature", 0, 2, 0)
    top_p = fields.number("top_p", 0, 1, 1)
    if top_p == 0:
        raise fields.refuse("top_p", "more than 0, at most 1")
    seed = fields.integer("seed", -(2**63), 2**63 - 1)
    if seed is None:
        seed = secrets.randbits(32) if temperature else 0
    streams = fields.flag("stream")
    stream_options = fields.value("stream_options")
    with_usage = False
    if stream_options is not None:
        inner = Fields(stream_options, "stream_options")
        with_usage = inner.flag("include_usage")
        inner.ignore({"include_obfuscation"})
        inner.finish()
    assert tokens is not None
    settings = DecodingSettings(tokens, temperature=temperature, top_p=top_p, seed=seed)
    return AnswerOptions(settings, _read_stop(fields), streams, with_usage)


def _read_stop(fields: Fields) -> tuple[str, ...]:
    value = fields.value("stop")
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    is_list = isinstance(stops, list) and len(stops) <= _MOST_STOPS
    if not is_list or not all(isinstance(each, str) and 0 < len(each) <= _LONGEST_STOP for each in stops):
        raise fields.refuse("stop", f"a text, or at most {_MOST_STOPS} of 1 to {_LONGEST_STOP} characters")
    return tuple(stops)


def _read_message(value: Any, where: str) -> tuple[str, str, list[MediaPart]]:
    fields = Fields(value, where)
    role = _ROLES.get(fields.text("role"))
    if role is None:
        raise fields.refuse("role", f"one of {', '.join(_ROLES)}")
    content = fields.value("content")
    fields.ignore({"name"})
    for name in ("refusal", "audio", "function_call"):
        fields.only(name)
    fields.only("tool_calls", [])
    fields.only("annotations", [])
    fields.finish()
    if isinstance(content, str):
        if not is_writable(content):
            raise fields.refuse("content", "text in valid Unicode")
        return role, _marked(content, 0, role, where), []
    if not isinstance(content, list) or not 1 <= len(content) <= _MOST_PARTS:
        raise fields.refuse("content", f"text, or a list of 1 to {_MOST_PARTS} parts")
    texts: list[str] = []
    media: list[MediaPart] = []
    for number, part in enumerate(content):
        read = _read_part(part, f"{where}.content[{number}]")
        if isinstance(read, str):
            texts.append(read)
        else:
            media.append(read)
    if media and role != "user":
        raise ApiError(400, f"{where}: only the user's messages may show videos and pictures", param=where)
    return role, _marked("\n".join(texts), len(media), role, where), media


def _marked(text: str, num_media: int, role: str, where: str) -> str:
    """The text of a message with a mark for every medium: where the text has them, else in front of it."""
    marks = text.count(MARK) if role == "user" else 0  # in other turns it is plain text
    if marks == 0:
        return f"{MARK}\n" * num_media + text
    if marks != num_media:
        raise ApiError(
            400,
            f"{where} has {marks} {MARK} marks in its text but shows {num_media} videos and pictures; write one mark "
            "for each, or none",
            code="bad_value",
            param=where,
        )
    return text


def _read_part(value: Any, where: str) -> str | MediaPart:
    fields = Fields(value, where)
    kind = fields.text("type")
    if kind == "text":
        text = fields.text("text")
        fields.finish()
        return text
    if kind == "file":
        inner = Fields(fields.value("file"), f"{where}.file")
        fields.finish()
        medium = MediaPart(None, inner.text("file_id"), *_read_range(inner), where)
        inner.finish()
        return medium
    if kind not in _MEDIA_PARTS:
        raise fields.refuse("type", "text, video_url, image_url or file")
    given = fields.value(kind)
    inner = Fields({"url": given} if isinstance(given, str) else given, f"{where}.{kind}")
    fields.finish()
    inner.ignore({"detail"})
    medium = MediaPart(inner.text("url"), None, *_read_range(inner), where)
    inner.finish()
    return medium


def _read_range(fields: Fields) -> tuple[int | None, int | None]:
    """Which part of a video is shown: ``start_ms`` and ``end_ms``, an extension of OpenAI's form."""
    start = fields.integer("start_ms", 0, _LONGEST_MS)
    end = fields.integer("end_ms", 1, _LONGEST_MS)
    if end is not None and end <= (start or 0):
        raise fields.refuse("end_ms", "more than start_ms")
    return start, end
