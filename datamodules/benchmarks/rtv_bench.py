"""RTV-Bench (2025): the same questions about a video at several times, whose answers change while it plays.

Besides the accuracy the authors report a score: of a group of questions, the hard one (level 2) counts only if all
easier ones (levels 0 and 1) are right.

Source: https://github.com/LJungang/RTV-Bench, ``QA.json`` (fields).
"""

import re
from collections.abc import Mapping, Sequence

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.benchmark import ScoredItem, mean_of_groups
from datamodules.benchmarks.clock_times import to_seconds
from datamodules.benchmarks.item import BenchmarkItem, Problem
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import QuestionTable
from datamodules.benchmarks.row_texts import text_of

_ID = re.compile(r"(?P<group>.*?\d+)-(?P<level>[012])(?:-.*)?")


class RTVBench(QuestionTable):
    """Reads ``QA.json``: ``video, questionID, type, field, end_time, question, options, answer``."""

    expected_answer: Form = "letter"

    def identity(self, row: FileRow) -> str | None:
        """The id of the question, with the video and the time, since an id is asked at several times."""
        parts = [str(row.values.get(name) or "") for name in ("video", "questionID", "end_time")]
        return " ".join(parts) if parts[1] else None

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """Type of the question, what it is about, the ability that it needs, and the field."""
        category = text_of(row, ("type",))
        about, _, ability = category.partition("-")
        found = {"type": category, "about": about, "ability": ability, "field": text_of(row, ("field",))}
        return {name: value for name, value in found.items() if value}

    def complete(self, item: BenchmarkItem, row: FileRow, problems: list[Problem]) -> BenchmarkItem:
        """When it is asked, its group, and its level in the group."""
        named = _ID.fullmatch(str(row.values.get("questionID") or ""))
        level = "" if named is None else named["level"]
        group = item.id if named is None else f"{item.media[0].path} {named['group']} {row.values.get('end_time')}"
        item = item._replace(group=group, facts={"level": level})
        try:
            return item._replace(ask_ms=round(1000 * to_seconds(row.values.get("end_time"))))
        except ValueError as error:
            problems.append(Problem(row.where, f"{item.id}: end_time: {error}; it is asked about the whole video"))
            return item

    def summary(self, scored: Sequence[ScoredItem]) -> Mapping[str, float]:
        """The score of groups, and the means by what a question is about and by ability."""
        if not scored:
            return {}
        groups: dict[str, list[ScoredItem]] = {}
        for each in scored:
            groups.setdefault(each.item.group, []).append(each)
        counted = []
        for group in groups.values():
            easy_right = all(each.score == 1 for each in group if each.item.facts.get("level") in ("0", "1"))
            counted += [each.score * easy_right for each in group if each.item.facts.get("level") == "2"]
        found = {"score of the hard questions": sum(counted) / len(counted)} if counted else {}
        for label in ("about", "ability"):
            labelled = [each for each in scored if label in each.item.labels]
            if labelled:
                found[f"mean of the means by {label}"] = mean_of_groups(labelled, label)[0]
        return found
