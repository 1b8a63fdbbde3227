"""Says whether an answer is right. A scorer is a small class; a benchmark may be scored by several."""

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from components.answer_scores import is_exact_match, normalise_answer, token_f1
from datamodules.benchmarks.item import LETTERS, BenchmarkItem
from membridge.evaluation.asked_item import AskedItem


class Score(NamedTuple):
    """A scorer's verdict."""

    value: float  # 0 to 1
    was_parsed: bool = True  # False: the answer names no option that the scorer can find, which counts as wrong


class Scorer(Protocol):
    """Scores answers by one rule.

    Attributes:
        name: Its name in records and reports.
        generates: Whether it reads the generated text.
    """

    name: str
    generates: bool

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Score an answer; None where the rule does not apply, such as to an item without options or label."""


class OptionLikelihood:
    """The most likely choice is the answer. Deterministic, and never unparsed."""

    name = "likelihood"
    generates = False

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Compare the most likely choice with the right one."""
        if item.answer is None or asked.chosen is None:
            return None
        return Score(float(asked.chosen == item.answer))


class StrictChoice:
    """The generated text must be an option: its letter, its text, or both, and nothing else."""

    name = "generated (strict)"
    generates = True

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Parse the text, and compare."""
        return _score_choice(item, strict_choice(asked.text, item.options))


class LenientChoice:
    """The option is looked for in the generated text, such as ``The answer is B`` or ``Best option: (B)``."""

    name = "generated (lenient)"
    generates = True

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Parse the text, and compare."""
        return _score_choice(item, lenient_choice(asked.text, item.options))


class ExactAnswer:
    """A free answer must equal the reference after normalisation, see ``components.answer_scores``."""

    name = "exact match"
    generates = True

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Compare the texts."""
        if item.options or not item.reference:
            return None
        return Score(float(is_exact_match(asked.text, item.reference)))


class TokenF1:
    """The harmonic mean of precision and recall of the words of a free answer."""

    name = "token F1"
    generates = True

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Compare the words."""
        if item.options or not item.reference:
            return None
        return Score(token_f1(asked.text, item.reference))


class AnswerGrader(Protocol):
    """Scores free answers by a language model of the user's choice; this project has none."""

    def __call__(self, question: str, reference: str, answer: str) -> float:
        """A score from 0 to 1."""


class GradedAnswer:
    """Scores free answers by a grader.

    Args:
        grader: Called for every answer; may ask another model.
        name: Name of the grader in records and reports.
    """

    generates = True

    def __init__(self, grader: AnswerGrader, name: str) -> None:
        self.grader = grader
        self.name = name

    def __call__(self, item: BenchmarkItem, asked: AskedItem) -> Score | None:
        """Ask the grader.

        Raises:
            ValueError: The grader's score is not from 0 to 1.
        """
        if item.options or not item.reference:
            return None
        value = self.grader(item.question, item.reference, asked.text)
        if not 0 <= value <= 1:
            raise ValueError(f"the grader {self.name!r} scored {value}; expected 0 to 1")
        return Score(value)


SCORERS: tuple[Scorer, ...] = (OptionLikelihood(), StrictChoice(), LenientChoice(), ExactAnswer(), TokenF1())
"""What every benchmark is scored by; each applies where an item has what it needs."""


def strict_choice(text: str, options: tuple[str, ...]) -> int | None:
    """Index of the option that a text is, and nothing else: ``B``, ``b)``, ``(B) a dog``, ``a dog.``; None: none."""
    letters = LETTERS[: len(options)]
    stripped = text.strip()
    named = re.fullmatch(r"\(?([A-Za-z])(?:[.):]\s*(.*?))?\s*\.?", stripped, re.DOTALL)
    if named is not None and named[1].upper() in letters:
        index = letters.index(named[1].upper())
        if not named[2] or is_exact_match(named[2], options[index]):
            return index
    return _only(index for index, option in enumerate(options) if _same_text(stripped, option))


def lenient_choice(text: str, options: tuple[str, ...]) -> int | None:
    """Index of the option that a text names: strictly, by an announced letter, by a letter alone, or by its text."""
    strict = strict_choice(text, options)
    if strict is not None or not options:
        return strict
    letter = f"[A-{LETTERS[: len(options)][-1]}]"
    announced = re.findall(rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*\(?\**({letter})\b", text)
    # "A man walks": an A without a mark behind it is an article.
    marked = re.findall(rf"\(({letter})\)|(?<![\w'])({letter})(?=[.):])", text)
    alone = re.findall(rf"(?<![\w'])({letter.replace('[A-', '[B-') if len(options) > 1 else letter})(?![\w'])", text)
    for found in (announced, [first or second for first, second in marked], alone):
        if found:
            return _only(LETTERS.index(each) for each in dict.fromkeys(found))
    said = normalise_answer(text)
    return _only(index for index, option in enumerate(options) if _holds_words(said, normalise_answer(option)))


def _score_choice(item: BenchmarkItem, chosen: int | None) -> Score | None:
    if item.answer is None or not item.options:
        return None
    return Score(float(chosen == item.answer), was_parsed=chosen is not None)


def _same_text(text: str, option: str) -> bool:
    return bool(normalise_answer(option)) and is_exact_match(text, option)


def _holds_words(said: str, option: str) -> bool:
    return bool(option) and f" {option} " in f" {said} "


def _only(indices: Iterable[int]) -> int | None:
    found = list(indices)
    return found[0] if len(found) == 1 else None
