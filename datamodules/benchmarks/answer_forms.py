"""Options and answers in the forms in which benchmarks write them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.benchmarks.item import LETTERS

PADDING = "N/A"
"""Text of an option that only fills up the row of a table."""

_LETTERED = re.compile(r"^\s*\(?([A-Z])[.):]\s*(.*)$", re.DOTALL)
_CLOCK = re.compile(r"^(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)$")


def option_texts(options: Any) -> tuple[str, ...]:
    """The texts of options without their letters.

    Args:
        options: A list, an object whose values are options in the order of its keys, or the JSON text of one.
            ``A. red`` and ``(A) red`` lose their letters where the options are lettered from A on. Options ``N/A`` at
            the end are left out.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError as error:
            raise ValueError(f"the options are {options[:60]!r}; expected a list of texts") from error
    if isinstance(options, Mapping):
        options = [options[name] for name in sorted(options)]
    if not isinstance(options, Sequence):
        raise ValueError(f"the options are {options!r}; expected a list of texts")
    texts = [str(option).strip() for option in options]
    while texts and texts[-1] in (PADDING, ""):
        texts.pop()
    marked = [_LETTERED.match(text) for text in texts]
    if all(match is not None and match[1] == letter for match, letter in zip(marked, LETTERS, strict=False)):
        texts = [match[2].strip() for match in marked if match is not None]
    return tuple(texts)


def answer_index(answer: Any, options: Sequence[str]) -> int:
    """The index of the right option.

    Args:
        answer: An index from 0 on, a letter (``B``, ``(b)``, ``B. red``), or the option's text.
        options: Texts without letters.

    Raises:
        ValueError: It names no option, or a text names several.
    """
    if isinstance(answer, bool) or answer is None:
        raise ValueError(f"the answer is {answer!r}; expected an index, a letter or an option's text")
    text = str(answer).strip()
    same = [index for index, option in enumerate(options) if option == text]
    if isinstance(answer, str) and len(same) == 1:
        return same[0]
    if re.fullmatch(r"\d+(\.0)?", text):
        return _inside(int(float(text)), options, text)
    letter = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", text) or _LETTERED.match(text)
    if letter is not None:
        return _inside(LETTERS.index(letter[1].upper()), options, text)
    raise ValueError(f"the answer {text[:60]!r} is none of the options")


def to_seconds(time: Any) -> float:
    """Seconds of ``12``, ``"12.5"``, ``1:05`` or ``0:01:05``.

    Raises:
        ValueError: It is no time, or negative.
    """
    text = str(time).strip()
    clock = _CLOCK.match(text)
    try:
        seconds = float(text) if clock is None else 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no time; expected seconds, m:ss or h:mm:ss") from error
    if not 0 <= seconds < 1e9 or isinstance(time, bool):
        raise ValueError(f"{text[:40]!r} is no time in a video")
    return seconds


def required(row: Mapping[str, Any], name: str) -> str:
    """A text field of a row.

    Raises:
        ValueError: It is missing or empty.
    """
    value = row.get(name)
    if value is None or not str(value).strip():
        raise ValueError(f"{name} is missing")
    return str(value).strip()


def _inside(index: int, options: Sequence[str], text: str) -> int:
    if index >= len(options):
        raise ValueError(f"the answer {text!r} names an option that is not there; there are {len(options)}")
    return index
