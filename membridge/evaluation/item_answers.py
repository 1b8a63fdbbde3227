"""Asks a model the questions of a benchmark about one video, which it reads once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from components.interfaces import DecodingSettings, LanguageState, TextInputs, VisualTokens
from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import LETTERS, BenchmarkItem, MediaPart, Prompt
from datamodules.benchmarks.media_search import find_media
from datamodules.errors import SampleError
from membridge.asking import visual_counts
from membridge.conversation import MARK, joined
from membridge.evaluation.asked_item import AskedItem
from membridge.frame_folder import read_frame_folder
from membridge.media_files import read_media_file
from membridge.opened_medium import OpenedMedium, read_medium


@dataclass(frozen=True)
class AskingSettings:
    """How questions are asked.

    Args:
        max_new_tokens: Longest generated answer; 0 = generate none, and score by likelihood alone.
        at_once: Questions about one video that are answered at the same time; memory grows with it.

    Raises:
        ValueError: A value is out of range.
    """

    max_new_tokens: int = 16
    at_once: int = 8

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0 or self.at_once < 1:
            raise ValueError(f"max_new_tokens must be at least 0 and at_once at least 1, got {self}")


class ReadMedia(NamedTuple):
    """Media that a model has read."""

    media: list[OpenedMedium]
    seconds: float


def read_parts(model: VideoLanguageModel, parts: Sequence[MediaPart], folder: Path) -> ReadMedia:
    """Decode media as the model was trained to, and let it read them.

    Args:
        model: A model in evaluation mode.
        parts: What to read.
        folder: The folder of media.

    Raises:
        OSError: A file is missing, or may not be read.
        SampleError: A file cannot be decoded, or a part is not in its video.
        ValueError: The model reads cached features.
    """
    begin = time.perf_counter()
    settings = model.training_facts.frames
    media = []
    for part in parts:
        path = find_media(folder, part.path)
        check_part(part)
        if part.frames_per_second is None:
            frames = read_media_file(path, settings, start_ms=part.start_ms, end_ms=part.end_ms)
        else:
            frames = read_frame_folder(
                path, part.frames_per_second, settings, start_ms=part.start_ms, end_ms=part.end_ms
            )
        media.append(read_medium(model, path.name, frames))
    return ReadMedia(media, time.perf_counter() - begin)


def check_part(part: MediaPart) -> None:
    """Refuse a part that begins before its video does, or that is empty.

    Raises:
        SampleError: The part is such a one.
    """
    start = part.start_ms or 0
    if start < 0:
        raise SampleError(f"{part.path} is shown from {start} ms, before it begins; correct its start")
    if part.end_ms is not None and part.end_ms <= start:
        raise SampleError(f"{part.path} is shown from {start} to {part.end_ms} ms, which is nothing")


@torch.no_grad()
def ask_items(
    model: VideoLanguageModel,
    benchmark: Benchmark,
    items: Sequence[BenchmarkItem],
    read: ReadMedia,
    settings: AskingSettings,
) -> list[AskedItem]:
    """Ask questions about media that were read once. The language model reads their common beginning once.

    Args:
        model: A model in evaluation mode.
        benchmark: Writes the prompts.
        items: Questions about the same media.
        read: The media.
        settings: How questions are asked.

    Returns:
        An answer for each question, or the reason why it has none.
    """
    frame_ms = [medium.frame_ms for medium in read.media]
    prompts = [benchmark.prompt(item, frame_ms) for item in items]
    problems = [problem_of(prompt, item, len(read.media)) for prompt, item in zip(prompts, items, strict=True)]
    asked = [prompt for prompt, problem in zip(prompts, problems, strict=True) if not problem]
    given: list[AskedItem] = []
    for first in range(0, len(asked), settings.at_once):
        given += _ask(model, asked[first : first + settings.at_once], read.media, settings)
    shared = read.seconds / len(items)
    answers = iter(given)
    found = [AskedItem(error=problem) if problem else next(answers) for problem in problems]
    return [each if each.error else each._replace(read_seconds=shared) for each in found]


def _ask(
    model: VideoLanguageModel, prompts: Sequence[Prompt], media: Sequence[OpenedMedium], settings: AskingSettings
) -> list[AskedItem]:
    """Ask prompts together; where one is too long, each by itself."""
    try:
        return _ask_together(model, prompts, media, settings)
    except TextLimitError as error:
        if len(prompts) == 1:
            return [AskedItem(error=error.reason)]
        return [answer for prompt in prompts for answer in _ask(model, [prompt], media, settings)]


def _ask_together(
    model: VideoLanguageModel, prompts: Sequence[Prompt], media: Sequence[OpenedMedium], settings: AskingSettings
) -> list[AskedItem]:
    if len(media) != 1 and len(prompts) > 1:
        return [answer for prompt in prompts for answer in _ask_together(model, [prompt], media, settings)]
    begin = time.perf_counter()
    text = model.language_model.prompts([turns_of(prompt, len(media)) for prompt in prompts])
    if len(media) == 1:
        visual = media[0].visual_rows(model, text)
    else:
        visual = joined([medium.visual_tokens(model, text) for medium in media])
    answers = answer_prompts(model, prompts, text, visual, settings)
    seconds = (time.perf_counter() - begin) / len(prompts)
    frames = sum(medium.num_frames for medium in media)
    shown_s = sum(medium.frame_ms[-1] for medium in media) / 1000
    return [each._replace(frames=frames, shown_s=shown_s, answer_seconds=seconds) for each in answers]


def answer_prompts(
    model: VideoLanguageModel,
    prompts: Sequence[Prompt],
    text: TextInputs,
    visual: VisualTokens,
    settings: AskingSettings,
) -> list[AskedItem]:
    """Score the choices of prompts, and generate answers, after one pass of the language model.

    Args:
        model: The model.
        prompts: The prompts.
        text: The same as token ids.
        visual: What they show.
        settings: How questions are asked.

    Returns:
        The answers, without frames and seconds.

    Raises:
        TextLimitError: A prompt is too long.
    """
    state = model.language_model.prefill(visual, text)
    likelihoods = _likelihoods(model, state, prompts)
    texts, new_tokens = [""] * len(prompts), [0] * len(prompts)
    if settings.max_new_tokens:
        decoded = model.language_model.decode(state, DecodingSettings(settings.max_new_tokens))
        texts, new_tokens = decoded.texts, [len(ids) for ids in decoded.token_ids]
    found = zip(texts, likelihoods, visual_counts(visual, text), state.lengths, new_tokens, strict=True)
    return [
        AskedItem(answer, scores, visual_tokens=num_visual, prompt_tokens=length, new_tokens=new)
        for answer, scores, num_visual, length, new in found
    ]


def _likelihoods(model: VideoLanguageModel, state: LanguageState, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
    """Mean log likelihood per token of the choices of every prompt."""
    if not any(prompt.choices for prompt in prompts):
        return [()] * len(prompts)
    # A state scores all of its conversations or none, so one without choices scores a text that nobody reads.
    scores = model.language_model.score(state, [prompt.choices or ("?",) for prompt in prompts])
    return [tuple(each.tolist()) if prompt.choices else () for prompt, each in zip(prompts, scores, strict=True)]


def problem_of(prompt: Prompt, item: BenchmarkItem, num_media: int) -> str:
    """Why a prompt cannot be asked; empty where it can. So one odd question does not end the evaluation.

    Args:
        prompt: The prompt.
        item: Its question.
        num_media: Media that it shows.
    """
    text = " ".join((prompt.system or "", prompt.text, *prompt.choices))
    marks = prompt.text.count(MARK)
    if marks not in (0, num_media):
        return f"its prompt has {marks} {MARK} marks for {num_media} media; remove them from question and options"
    if prompt.choices and len(prompt.choices) < len(item.options):
        return (
            f"it has {len(item.options)} options, but letters can name {len(LETTERS)} only; set chosen_by: text in the "
            "benchmark's YAML file"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "its text has half a character (a lone surrogate), which no tokenizer reads; remove it"
    return ""


def turns_of(prompt: Prompt, num_media: int) -> list[tuple[str, str]]:
    """The turns of a prompt, with a mark for every medium.

    Args:
        prompt: The prompt.
        num_media: Media that it shows.

    Raises:
        ValueError: The prompt has marks, but not one for each medium.
    """
    marks = prompt.text.count(MARK)
    if marks not in (0, num_media):
        raise ValueError(
            f"the prompt has {marks} {MARK} marks for {num_media} media; the benchmark must write one each"
        )
    text = prompt.text if marks else "".join(f"{MARK}\n" for _ in range(num_media)) + prompt.text
    return [*([] if prompt.system is None else [("system", prompt.system)]), ("user", text)]
