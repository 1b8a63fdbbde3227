"""Finds the answer of every question in a separate file of answers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from datamodules.benchmarks.item import Problem
from datamodules.benchmarks.question_files import FileRow, FileRows

ID_FIELDS = ("question_id", "q_uid", "qid", "question_idx", "sample_id", "uid", "id")
"""Names of the field with a question's id, the first that is there."""


class Pairing(NamedTuple):
    """Answers in the order of the questions."""

    answers: list[FileRow | None]
    problems: list[Problem]


def identity_of(row: FileRow) -> str | None:
    """The id of a row, as text; None: it has none."""
    value = next((row.values[name] for name in ID_FIELDS if _is_id(row.values.get(name))), row.key)
    return None if value is None else str(value).strip()


def id_types(rows: Sequence[FileRow]) -> set[str]:
    """Names of the types of the ids in a file."""
    found = (next((row.values[name] for name in ID_FIELDS if name in row.values), None) for row in rows)
    return {type(value).__name__ for value in found if value is not None}


def pair_answers(ids: Sequence[str | None], answers: FileRows, name: str) -> Pairing:
    """Match by id, the second question of an id with its second answer; by position where the answers have no ids.

    Args:
        ids: Ids of all questions, in the order of their file.
        answers: The rows of the file of answers.
        name: Name of that file.

    Returns:
        An answer, or None, for every question; and what does not fit.
    """
    problems = list(answers.problems)
    answer_ids = [identity_of(row) for row in answers.rows]
    if not any(each is not None for each in answer_ids) or not any(each is not None for each in ids):
        return _by_position(ids, answers.rows, name, problems)
    waiting: dict[str | None, list[FileRow]] = defaultdict(list)
    for identity, row in zip(answer_ids, answers.rows, strict=True):
        if identity is None:
            problems.append(Problem(row.where, "the answer has no question id; it is left out"))
        else:
            waiting[identity].append(row)
    problems += [
        Problem(rows[1].where, f"the answer to {identity!r} is there {len(rows)} times")
        for identity, rows in waiting.items()
        if len(rows) > 1
    ]
    found = [waiting[identity].pop(0) if identity is not None and waiting.get(identity) else None for identity in ids]
    problems += [
        Problem(row.where, f"the answer to {identity!r} has no question")
        for identity, rows in waiting.items()
        for row in rows
    ]
    if any(row.key is None for row in answers.rows):  # the order of an object means nothing
        problems += _order_problems(ids, answer_ids, name)
    return Pairing(found, problems)


def _by_position(ids: Sequence[str | None], rows: Sequence[FileRow], name: str, problems: list[Problem]) -> Pairing:
    if any(each is not None for each in ids):
        problems.append(Problem(name, "the answers have no question ids; they are matched by their order"))
    if len(rows) != len(ids):
        problems.append(Problem(name, f"it has {len(rows)} answers to {len(ids)} questions"))
    return Pairing([rows[index] if index < len(rows) else None for index in range(len(ids))], problems)


def _order_problems(ids: Sequence[str | None], answer_ids: Sequence[str | None], name: str) -> list[Problem]:
    """Whether the ids that both files have are in the same order."""
    both = set(ids) & set(answer_ids) - {None}
    ours, theirs = [each for each in ids if each in both], [each for each in answer_ids if each in both]
    different = [(one, other) for one, other in zip(ours, theirs, strict=False) if one != other]
    if not different:
        return []
    one, other = different[0]
    return [
        Problem(
            name,
            f"the order differs from that of the questions at {len(different)} of {len(ours)} positions, "
            f"first where the question is {one!r} and the answer {other!r}; answers are matched by id",
        )
    ]


def unique_ids(ids: Sequence[str | None], rows: Sequence[FileRow]) -> tuple[list[str], list[Problem]]:
    """Give every question an id of its own.

    Args:
        ids: Ids of the rows; None: no id.
        rows: The rows.

    Returns:
        The ids; the second ``x`` is called ``x#2``, and a question without id ``row N``. And what was changed.
    """
    seen: dict[str, int] = defaultdict(int)
    taken = {each for each in ids if each is not None}
    unique, problems = [], []
    has_ids = bool(taken)
    for number, (identity, row) in enumerate(zip(ids, rows, strict=True), start=1):
        if identity is None:
            if has_ids:
                problems.append(Problem(row.where, f"the question has no id; it is called 'row {number}'"))
            identity = f"row {number}"
        elif identity == "":
            problems.append(Problem(row.where, f"the question's id is empty; it is called 'row {number}'"))
            identity = f"row {number}"
        seen[identity] += 1
        name = identity
        while seen[identity] > 1 and (name := f"{identity}#{seen[identity]}") in taken:
            seen[identity] += 1
        if name != identity:
            problems.append(
                Problem(row.where, f"the id {identity!r} is there before; this question is called {name!r}")
            )
        taken.add(name)
        unique.append(name)
    return unique, problems


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
