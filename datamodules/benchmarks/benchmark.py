"""The base class of benchmarks: reads the questions, writes the prompts, and sums up the scores.

A new benchmark is a subclass in a file of its own and a YAML file in ``configs/benchmark``. It must have ``read``. The
prompt and the summary of this class serve most multiple-choice benchmarks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.benchmarks.item import LETTERS, BenchmarkFiles, BenchmarkItem, Problem, Prompt

ANSWER_WITH_LETTER = "Answer with the option's letter from the given choices directly."


class ScoredItem(NamedTuple):
    """An item with what one scorer gave for the answer."""

    item: BenchmarkItem
    score: float  # 0 to 1; 0 for an item that has no answer
    was_parsed: bool = True  # False: the answer names no option that the scorer can find


class Benchmark(ABC):
    """Questions about videos, with a rule for their prompts and their summary.

    Args:
        questions: File, or folder, of the questions; from the benchmark's folder on.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: What the model chooses an option by: its ``letter``, after a prompt that lists all options; or the
            likelihood of its ``text``, after the question alone.
        most_items: Read only so many questions, evenly spread; None: all.

    Raises:
        ValueError: ``most_items`` is below 1.

    Attributes:
        prompt_name: Name of the form of the prompt, for reports. Scores of different prompts must not be compared.
        published_items: Questions in the published files; None: unknown, or the files are others.
    """

    prompt_name = "options by letter"
    published_items: int | None = None

    def __init__(
        self,
        questions: str,
        videos: str = "videos",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "letter",
        most_items: int | None = None,
    ) -> None:
        if most_items is not None and most_items < 1:
            raise ValueError(f"most_items is {most_items}; expected at least 1, or null for all questions")
        self.questions = questions
        self.videos = videos
        self.folder = folder
        self.chosen_by = chosen_by
        self.most_items = most_items

    @abstractmethod
    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions.

        Args:
            root: The benchmark's folder.

        Returns:
            The items in the order of the files, and what is wrong with the files. An item that cannot be asked is left
            out of the items and is a problem.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file cannot be read at all.
        """

    def prompt(self, item: BenchmarkItem, frame_ms: Sequence[Sequence[int]]) -> Prompt:
        """Write the prompt of a question.

        Args:
            item: The question.
            frame_ms: Times of the frames that the model saw of each medium, in milliseconds from its beginning; for
                prompts with subtitles.
        """
        if not item.options or self.chosen_by == "text":
            return Prompt(item.question, item.options)
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, item.options, strict=False))
        text = f"{item.question}\n{listed}\n{ANSWER_WITH_LETTER}"
        return Prompt(text, tuple(LETTERS[: len(item.options)]))

    def describe_prompt(self) -> str:
        """The form of the prompt, for reports."""
        if self.chosen_by == "letter":
            return self.prompt_name
        return self.prompt_name.replace("options by letter", "options by the likelihood of their text, not listed")

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The benchmark's official scores besides the share of right answers, by name. None by default.

        Args:
            scored: All items with the scores of one scorer.
        """
        return {}

    def submission(self, chosen: Mapping[str, int]) -> object:
        """The choices for questions whose answers are not public, in the form that the benchmark's server expects.

        Args:
            chosen: Id -> index of the chosen option.

        Returns:
            Plain values, which are written as JSON. Without a rule of the benchmark: id -> letter.
        """
        return {identity: LETTERS[index] for identity, index in chosen.items()}

    def count_problems(self, items: Sequence[BenchmarkItem], where: str) -> list[Problem]:
        """Compare the number of questions with the published one; for the end of ``read``.

        Args:
            items: The questions that were read.
            where: Name of the file of questions.
        """
        if self.published_items is None or len(items) == self.published_items:
            return []
        return [Problem(where, f"it gives {len(items):,} items; the published set has {self.published_items:,}")]

    def chosen_items(self, items: Sequence[BenchmarkItem]) -> list[BenchmarkItem]:
        """At most ``most_items``, evenly spread over all."""
        if self.most_items is None or self.most_items >= len(items):
            return list(items)
        return [items[index * len(items) // self.most_items] for index in range(self.most_items)]


def mean_of_groups(scored: Sequence[ScoredItem], label: str) -> tuple[float, dict[str, float]]:
    """Mean of the means of every group of items, as several benchmarks report it.

    Args:
        scored: The items.
        label: Name of the label that names the group.

    Returns:
        The mean of the means, and the mean of each group; NaN without items.
    """
    groups: dict[str, list[float]] = {}
    for each in scored:
        groups.setdefault(each.item.labels[label], []).append(each.score)
    means = {name: sum(scores) / len(scores) for name, scores in groups.items()}
    return sum(means.values()) / len(means) if means else float("nan"), means


def share_of_parsed(scored: Sequence[ScoredItem]) -> float | None:
    """Share of right answers among those that could be parsed, as several official scripts count; None without one."""
    parsed = [each.score for each in scored if each.was_parsed]
    return sum(parsed) / len(parsed) if parsed else None
