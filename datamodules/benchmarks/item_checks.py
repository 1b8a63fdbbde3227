"""Finds what is odd about questions, in the same way for every benchmark's reader."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from datamodules.benchmarks.item import BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.option_texts import PADDING

_JOINERS = ("\u200c", "\u200d")  # needed by several scripts


def check_items(items: Sequence[BenchmarkItem]) -> list[Problem]:
    """Check questions.

    Args:
        items: All questions of a benchmark.

    Returns:
        What is wrong: ids that are there twice, empty texts, options that are empty or the same, answers out of range,
        times out of order, characters that cannot be meant.
    """
    problems = []
    seen: dict[str, int] = defaultdict(int)
    for item in items:
        seen[item.id] += 1
        checks = (_question, _options, _answer, _media, _characters)
        problems += [Problem(item.id, what) for check in checks for what in check(item)]
    problems += [Problem(name, f"the id is there {count} times") for name, count in seen.items() if count > 1]
    return problems


# The types of these items are not trusted: a reader of the user's own may have passed on what a file holds.


def _question(item: Any) -> Iterator[str]:
    if not isinstance(item.question, str):
        yield f"the question is of type {type(item.question).__name__}, expected text"
    elif not item.question.strip():
        yield "the question is empty"


def _options(item: Any) -> Iterator[str]:
    if len(item.options) == 1:
        yield "it has one option only, so every answer is right"
    texts = defaultdict(list)
    for number, option in enumerate(item.options):
        if not isinstance(option, str):
            yield f"option {number} is of type {type(option).__name__}, expected text"
        elif not option.strip():
            yield f"option {number} is empty"
        elif option.strip().upper() == PADDING:
            yield f"option {number} is the padding {PADDING!r}"
        else:
            texts[" ".join(option.casefold().split())].append(number)
    for numbers in texts.values():
        if len(numbers) > 1:
            named = " and ".join(map(str, numbers))
            right = ", one of which is the right answer" if item.answer in numbers else ""
            yield f"options {named} are the same{right}: {item.options[numbers[0]]!r}"


def _answer(item: Any) -> Iterator[str]:
    if item.answer is None:
        return
    if not isinstance(item.answer, int) or isinstance(item.answer, bool):
        yield f"the answer is of type {type(item.answer).__name__}, expected an index"
    elif not 0 <= item.answer < len(item.options):
        yield f"the answer {item.answer} is out of range: there are {len(item.options)} options"


def _media(item: BenchmarkItem) -> Iterator[str]:
    if not item.media:
        yield "it names no video"
    for part in item.media:
        yield from _part(part, item.duration_s)
    if item.ask_ms is not None and item.ask_ms < 0:
        yield f"it is asked at {item.ask_ms} ms, before the video begins"
    if item.ask_ms is not None and item.duration_s is not None and item.ask_ms > 1000 * item.duration_s:
        yield f"it is asked at {item.ask_ms} ms, after the video ends at {item.duration_s} s"


def _part(part: MediaPart, duration_s: float | None) -> Iterator[str]:
    start, end = part.start_ms or 0, part.end_ms
    if not isinstance(part.path, str) or not part.path.strip():
        yield f"the name of its video is {part.path!r}"
    if start < 0:
        yield f"{part.path} starts at {start} ms, before the video begins"
    if end is not None and start >= end:
        yield f"{part.path} starts at {start} ms, not before its end at {end} ms"
    if duration_s is not None and start >= 1000 * duration_s > 0:
        yield f"{part.path} starts at {start} ms, after the video ends at {duration_s} s"


def _characters(item: BenchmarkItem) -> Iterator[str]:
    for part in item.media:
        found = odd_characters(part.path)
        if found:
            yield f"the video's name {part.path!r} holds {found}"
    texts = {"the question": item.question, **{f"option {n}": text for n, text in enumerate(item.options)}}
    for name, text in texts.items():
        found = odd_characters(text)
        if found:
            yield f"{name} holds {found}"


def odd_characters(text: object) -> str:
    """Characters that are there by mistake: half ones, control characters, invisible ones, marks of a wrong encoding.

    Args:
        text: A text; anything else has none.

    Returns:
        Their names; empty: there are none.
    """
    if not isinstance(text, str) or (text.isascii() and text.isprintable()):
        return ""
    found = {character: _odd(character) for character in text}
    return ", ".join(f"U+{ord(character):04X} ({name})" for character, name in sorted(found.items()) if name)


def _odd(character: str) -> str:
    if character == "\ufffd":
        return "a character that was lost in decoding"
    category = unicodedata.category(character)
    if category == "Cs":
        return "half a character"
    if category in ("Cc", "Cn", "Co") and character not in "\n\t\r":
        return "a control character" if category == "Cc" else "no character of Unicode"
    if category == "Cf" and character not in _JOINERS:
        return "an invisible character"
    return ""
