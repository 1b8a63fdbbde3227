"""Asks a model several questions about one video or picture that it has read once."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from components.interfaces import DecodingSettings, LanguageState, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from membridge.conversation import Conversation
from membridge.opened_medium import OpenedMedium, read_medium


class AskedQuestion(NamedTuple):
    """A question, and the answers to choose from where it is not answered freely."""

    text: str
    options: tuple[str, ...] = ()


class GivenAnswer(NamedTuple):
    """An answer, and what it took."""

    text: str
    visual_tokens: int  # of all media that the question is about
    prompt_tokens: int  # visual tokens included
    new_tokens: int  # 0 for a choice among options
    seconds: float  # of questions that are answered at the same time, the mean
    scores: tuple[float, ...] = ()  # of the options: mean log likelihood per token, higher is better

    def facts(self) -> dict[str, Any]:
        """The answer as plain values, as ``apps.ask`` prints it."""
        tokens = {"visual": self.visual_tokens, "prompt": self.prompt_tokens, "new": self.new_tokens}
        scores = {"scores": [round(score, 6) for score in self.scores]} if self.scores else {}
        return {"answer": self.text, **scores, "tokens": tokens, "answer_seconds": round(self.seconds, 4)}


class TimedMedium(NamedTuple):
    """A medium that a model has read, and how long that took."""

    path: Path
    medium: OpenedMedium
    start_ms: int  # start of the part that was read
    decode_seconds: float
    read_seconds: float

    def facts(self) -> dict[str, Any]:
        """The medium as plain values, as ``apps.ask`` prints it.

        ``start`` and ``end`` are the times of the first and last frame that was read, in seconds.
        """
        times = self.medium.frame_ms
        return {
            "medium": str(self.path),
            "start": (self.start_ms + times[0]) / 1000,
            "end": (self.start_ms + times[-1]) / 1000,
            "frames": len(times),
            "decode_seconds": round(self.decode_seconds, 4),
            "read_seconds": round(self.read_seconds, 4),
        }


def open_timed(
    model: VideoLanguageModel, path: Path, start_ms: int | None = None, end_ms: int | None = None
) -> TimedMedium:
    """Decode a file as the model was trained to, let the model read it, and time both; see ``open_medium``.

    Raises:
        OSError: There is no such file, or this user may not read it.
        ValueError: The file cannot be decoded (``datamodules.errors.SampleError``), or the part is not in the video.
    """
    from membridge.media_files import read_media_file  # needs av and torchvision, which opening a model does not

    begin = time.perf_counter()
    media = read_media_file(path, model.training_facts.frames, start_ms=start_ms, end_ms=end_ms)
    decoded = time.perf_counter()
    medium = read_medium(model, path.name, media)
    return TimedMedium(path, medium, start_ms or 0, decoded - begin, time.perf_counter() - decoded)


@torch.no_grad()
def ask_about(
    model: VideoLanguageModel,
    medium: OpenedMedium,
    questions: Sequence[AskedQuestion],
    settings: DecodingSettings,
) -> list[GivenAnswer]:
    """Answer questions about one medium, each by itself. The language model reads their common beginning once.

    Args:
        model: A model in evaluation mode.
        medium: What the model has read.
        questions: The questions; memory grows with their number.
        settings: How answers are chosen. A question with options is answered by its most likely option.

    Returns:
        One answer for each question.

    Raises:
        components.language.text_limits.TextLimitError: A question is too long for the context.
    """
    answers: dict[int, GivenAnswer] = {}
    for with_options in (False, True):
        numbers = [number for number, each in enumerate(questions) if bool(each.options) == with_options]
        if numbers:
            asked = [questions[number] for number in numbers]
            answers |= zip(numbers, _ask_together(model, medium, asked, settings), strict=True)
    return [answers[number] for number in range(len(questions))]


def ask_about_all(
    model: VideoLanguageModel, media: Sequence[OpenedMedium], question: str, settings: DecodingSettings
) -> GivenAnswer:
    """Answer one question about several media together; see ``Conversation`` about its ``<video>`` marks.

    Raises:
        ValueError: The question has another number of marks than there are media, or is too long for the context.
    """
    conversation = Conversation(model, settings)
    for medium in media:
        conversation.add(medium)
    reply = conversation.ask(question)
    return GivenAnswer(reply.text, reply.visual_tokens, reply.prompt_tokens, reply.new_tokens, reply.seconds)


def _ask_together(
    model: VideoLanguageModel, medium: OpenedMedium, questions: Sequence[AskedQuestion], settings: DecodingSettings
) -> list[GivenAnswer]:
    """Answer questions that all have options, or none, in one pass of the language model."""
    begin = time.perf_counter()
    language_model = model.language_model
    text = language_model.prompts([each.text for each in questions])
    visual = medium.visual_rows(model, text)
    state = language_model.prefill(visual, text)
    counts = zip(visual_counts(visual, text), state.lengths, strict=True)
    texts, new_tokens, scores = _answer(model, state, questions, settings)
    seconds = (time.perf_counter() - begin) / len(questions)
    found = zip(texts, counts, new_tokens, scores, strict=True)
    return [GivenAnswer(answer, *count, new, seconds, score) for answer, count, new, score in found]


def _answer(
    model: VideoLanguageModel, state: LanguageState, questions: Sequence[AskedQuestion], settings: DecodingSettings
) -> tuple[list[str], list[int], list[tuple[float, ...]]]:
    """Texts of the answers, their numbers of new tokens, and the scores of options."""
    if not questions[0].options:
        answers = model.language_model.decode(state, settings)
        return answers.texts, [len(ids) for ids in answers.token_ids], [()] * len(questions)
    scores = model.language_model.score(state, [each.options for each in questions])
    texts = [each.options[int(score.argmax())] for each, score in zip(questions, scores, strict=True)]
    return texts, [0] * len(questions), [tuple(score.tolist()) for score in scores]


def visual_counts(visual: VisualTokens, text: TextInputs) -> list[int]:
    """Visual tokens of every conversation."""
    rows = text.video_index if visual.row_index is None else visual.row_index
    counts = visual.mask.sum(dim=1).tolist()
    return [sum(counts[row] for row in of_conversation if row >= 0) for of_conversation in rows.tolist()]
