"""Answers a file of questions about many videos for ``apps.ask``: one pass over each video, resumable."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from command_errors import explain
from components.interfaces import DecodingSettings
from components.language.text_limits import TextLimitError
from datamodules.errors import count_of
from membridge.answer_file import AnswerFile
from membridge.answering_model import VideoLanguageModel
from membridge.asking import GivenAnswer, TimedMedium, ask_about, open_timed
from membridge.question_file import FileQuestion, VideoPart, by_part


def ask_from_file(
    model: VideoLanguageModel,
    questions: Sequence[FileQuestion],
    root: Path,
    answers: AnswerFile,
    settings: DecodingSettings,
    at_once: int,
) -> int:
    """Answer questions, and write the answers to each video as soon as they are complete.

    A question that cannot be answered is reported, and is listed with the reason in ``ANSWERS.failed.jsonl``. It is
    tried again the next time.

    Args:
        model: The model.
        questions: Questions without an answer.
        root: Folder from which the paths of the videos start.
        answers: Where answers are written.
        settings: How answers are chosen.
        at_once: Questions of a video that are answered at the same time.

    Returns:
        Number of questions that could not be answered.
    """
    failed_path = answers.path.with_name(f"{answers.path.stem}.failed.jsonl")
    failed_path.unlink(missing_ok=True)
    groups = list(by_part(questions))
    num_failed = num_media_failed = 0
    progress = tqdm(groups, desc="asking", unit="video", disable=None)
    for part, of_part in progress:
        failed: dict[str, str] = {}
        try:
            opened = open_timed(model, root / part.video, part.start_ms, part.end_ms)
        except (OSError, ValueError) as error:
            failed = {question.id: explain(error) or str(error) for question in of_part}
            num_media_failed += 1
        else:
            for first in range(0, len(of_part), at_once):
                failed |= _answer(model, opened, of_part[first : first + at_once], answers, settings)
        if failed:
            num_failed += len(failed)
            progress.set_postfix(failed=num_failed)
            _report(failed_path, part, failed)
    if num_failed:
        print(
            f"error: {count_of(num_failed, 'question')} without an answer ({num_media_failed} of {len(groups)} videos "
            f"cannot be read); {failed_path} says why. The same command tries them again",
            file=sys.stderr,
            flush=True,
        )
    return num_failed


def check_same_questions(questions: Sequence[FileQuestion], answers: AnswerFile) -> None:
    """Refuse answers to other questions.

    Raises:
        ValueError: An answer so far has the id of a question, but is to another one.
    """
    for question in questions:
        found = answers.answers.get(question.id, {})
        now = _asked(question)
        if found and {name: found.get(name) for name in now} != now:
            raise ValueError(
                f"{answers.path} has an answer to another question with the id {question.id!r}: "
                f"{found.get('question')!r} about {found.get('video')!r}. Give the questions ids of their own, or "
                "choose another file"
            )


def _answer(
    model: VideoLanguageModel,
    opened: TimedMedium,
    questions: Sequence[FileQuestion],
    answers: AnswerFile,
    settings: DecodingSettings,
) -> dict[str, str]:
    """Answer questions about a medium; where one is too long, each by itself.

    Returns:
        Why questions have no answer, by id.
    """
    try:
        given = ask_about(model, opened.medium, [each.question for each in questions], settings)
    except TextLimitError as error:
        if len(questions) == 1:
            return {questions[0].id: error.reason}
        failed: dict[str, str] = {}
        for question in questions:
            failed |= _answer(model, opened, [question], answers, settings)
        return failed
    answers.add(_line(question, opened, answer) for question, answer in zip(questions, given, strict=True))
    return {}


def _asked(question: FileQuestion) -> dict[str, Any]:
    """What identifies a question in the file of answers."""
    part = question.part
    return {
        "video": part.video,
        "part_ms": None if part.start_ms is part.end_ms is None else [part.start_ms, part.end_ms],
        "question": question.question.text,
        "options": list(question.question.options) or None,
    }


def _line(question: FileQuestion, opened: TimedMedium, answer: GivenAnswer) -> dict[str, Any]:
    asked = {name: value for name, value in _asked(question).items() if value is not None}
    return {"id": question.id, **asked, **answer.facts(), **opened.facts()}


def _report(path: Path, part: VideoPart, failed: dict[str, str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for identity, reason in failed.items():
            file.write(json.dumps({"id": identity, "video": part.video, "error": reason}, ensure_ascii=False) + "\n")
    for reason in dict.fromkeys(failed.values()):
        tqdm.write(f"error: {part.video}: {reason}", file=sys.stderr)
