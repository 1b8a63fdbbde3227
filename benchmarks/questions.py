"""Measures what many questions about one video cost: ``python -m benchmarks.questions --threads 1``.

Scores the options of several questions about the same video in three ways:

- a pass for each: encoder, bridge and language model run for every question;
- one video, a prompt for each: encoder and bridge run once, the language model reads every complete prompt;
- one prompt: the language model also reads the shared beginning of the prompts, with the visual tokens, once.

Prints for each: frames that the encoder read, positions that the language model computed, seconds (the fastest of
several runs), and the largest difference of a score to the first way. Exits with 1 if a score differs by more than 1e-5
(float32, CPU) or one prompt is less than 5 times as fast as a pass for each.
"""

import argparse
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.command_options import CLOCKS, add_clock_option, add_numbers, numbers_in
from benchmarks.full_size.report import device_name
from benchmarks.iteration_loss import Sizes, build_model
from benchmarks.results_page import replace_section, replace_summary, table
from benchmarks.tiny_parts import write_encoder
from command_errors import run_and_exit
from components.bridges.readouts.cache import CacheReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import TextInputs
from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.streams import StreamReader

DIFFERENCE_LIMIT = 1e-5
SPEED_LIMIT = 5.0
ANCHOR = "questions-about-one-video"
_IMAGE_SIZE = 84


class Settings(NamedTuple):
    """Size of the model, the video and the questions."""

    frames: int = 64
    visual_tokens: int = 256
    questions: int = 10
    options: int = 4
    question_words: int = 12
    layers: int = 4
    width: int = 256
    repeats: int = 3


class VideoQuestions(NamedTuple):
    """One video and questions about it; a ``VideoTextBatch``."""

    frames: Tensor
    frame_counts: Tensor
    frame_ms: Tensor
    picture_sizes: Tensor
    input_ids: Tensor
    text_mask: Tensor
    labels: Tensor
    video_index: Tensor

    def only(self, question: int) -> "VideoQuestions":
        """The video with one of its questions."""
        text = (field[question : question + 1] for field in self[4:])
        return VideoQuestions(*self[:4], *text)


class Measured(NamedTuple):
    """One way to score the options."""

    frames: int
    positions: int
    seconds: float
    scores: Tensor  # [questions, options]


def build_video_model(settings: Settings, device: torch.device) -> VideoLanguageModel:
    """A DINOv2, a recurrent bridge and a Llama, all small and with random weights."""
    sizes = Sizes(layers=settings.layers, width=settings.width)
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(Path(folder), _IMAGE_SIZE, num_layers=2, width=settings.width)
        encoder = HuggingFaceVisionEncoder(folder, layer=-1)
    language_model = build_model(sizes, device, freeze=False)
    readout = partial(CacheReadout, num_queries=settings.visual_tokens)
    bridge = RecurrentMemoryBridge(encoder.dim, language_model.dim, readout=readout)
    model = VideoLanguageModel(
        encoder=encoder, segmenter=FixedLength(8), readers=StreamReader(bridge), language_model=language_model
    )
    return model.to(device).eval()


def build_batch(settings: Settings, model: VideoLanguageModel, device: torch.device) -> VideoQuestions:
    """A video of noise and questions of random words behind it."""
    generator = torch.Generator().manual_seed(0)
    shape = (settings.frames, 3, _IMAGE_SIZE, _IMAGE_SIZE)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    words = " ".join(["word"] * settings.question_words)
    language_model: Any = model.language_model
    text: TextInputs = language_model.prompts([words] * settings.questions)
    ids = text.input_ids
    drawn = torch.randint(3, Sizes().vocabulary, ids.shape, generator=generator)
    is_word = ids == language_model.tokenizer.unk_token_id  # the tokenizer of the benchmarks knows no words
    text = text._replace(input_ids=drawn.where(is_word, ids))
    times = torch.arange(settings.frames) * 1000
    no_picture = torch.zeros(1, 2, dtype=torch.int64)
    return VideoQuestions(frames, torch.tensor([settings.frames]), times.to(device), no_picture, *text)


def pass_for_each(model: VideoLanguageModel, batch: VideoQuestions, options: Sequence[Sequence[str]]) -> list[Tensor]:
    """Run the complete model for every question."""
    return [model.score_options(batch.only(number), [each])[0] for number, each in enumerate(options)]


def prompt_for_each(model: VideoLanguageModel, batch: VideoQuestions, options: Sequence[Sequence[str]]) -> list[Tensor]:
    """Read the video once, and every complete prompt."""
    visual = model.visual_tokens(batch)
    texts = (TextInputs(*batch.only(number)[4:]) for number in range(len(options)))
    scores = (
        model.language_model.score_options(visual, text, [each]) for text, each in zip(texts, options, strict=True)
    )
    return [score for [score] in scores]


def one_prompt(model: VideoLanguageModel, batch: VideoQuestions, options: Sequence[Sequence[str]]) -> list[Tensor]:
    """Read the video once, and the shared beginning of the prompts once."""
    return model.score_options(batch, options)


WAYS: dict[str, Callable[..., list[Tensor]]] = {
    "a pass for each": pass_for_each,
    "one video, a prompt for each": prompt_for_each,
    "one prompt": one_prompt,
}


@torch.no_grad()
def measure(
    way: Callable[..., list[Tensor]],
    model: VideoLanguageModel,
    batch: VideoQuestions,
    settings: Settings,
    clock: Callable[[], float],
) -> Measured:
    """Score all options, once to count and several times for the time."""
    options = [[" ".join(["word"] * (1 + number)) for number in range(settings.options)]] * settings.questions
    frames = positions = 0

    def count_frames(_: Any, arguments: tuple[Tensor, ...]) -> None:
        nonlocal frames
        frames += len(arguments[0])

    def count_positions(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        nonlocal positions
        positions += arguments["inputs_embeds"].shape[:2].numel()

    language_model: Any = model.language_model
    hooks = [
        model.encoder.register_forward_pre_hook(count_frames),
        language_model.model.register_forward_pre_hook(count_positions, with_kwargs=True),
    ]
    scores = torch.stack(way(model, batch, options))
    for hook in hooks:
        hook.remove()
    seconds = []
    for _ in range(settings.repeats):
        start = clock()
        way(model, batch, options)
        if batch.frames.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return Measured(frames, positions, min(seconds), scores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if a score differs, or one prompt is not fast enough.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings, device = Settings(**numbers_in(options, Settings._fields)), torch.device(options.device)
    model = build_video_model(settings, device)
    batch = build_batch(settings, model, device)
    measured = {name: measure(way, model, batch, settings, CLOCKS[options.clock]) for name, way in WAYS.items()}
    first, last = measured["a pass for each"], measured["one prompt"]
    command = shlex.join(["python", "-m", "benchmarks.questions", *given])
    machine = f"CPU, threads: {torch.get_num_threads()}" if device.type == "cpu" else device_name(device)
    section = describe(measured, settings, f"`{command}` ({machine}; {date.today()})")
    print(section)
    if options.results is not None:
        figure = f"{first.seconds / last.seconds:.1f} times as fast as a pass for each question, same scores"
        page = replace_section(options.results.read_text(encoding="utf-8"), "questions", section)
        page = replace_summary(page, ANCHOR, figure=figure, device=machine, made=str(date.today()))
        options.results.write_text(page, encoding="utf-8")
    # Other kernels run on CUDA, where float32 products may be rounded to TF32.
    limit = DIFFERENCE_LIMIT if device.type == "cpu" else 1e-3
    same = all(bool(((each.scores - first.scores).abs() <= limit).all()) for each in measured.values())
    fast = first.seconds >= SPEED_LIMIT * last.seconds
    print(f"\nscores within {limit:g}: {'yes' if same else 'NO'}")
    print(f"one prompt {SPEED_LIMIT:g} times as fast as a pass for each: {'yes' if fast else 'NO'}")
    return 0 if same and fast else 1


def describe(measured: Mapping[str, Measured], settings: Settings, made_by: str) -> str:
    """The section of the results page."""
    first = measured["a pass for each"]
    rows = [
        [
            name,
            str(each.frames),
            str(each.positions),
            f"{each.seconds:.2f}",
            f"{first.seconds / each.seconds:.1f}",
            f"{float((each.scores - first.scores).abs().max()):.1e}",
        ]
        for name, each in measured.items()
    ]
    what = (
        f"{made_by}; torch {torch.__version__}, float32. {settings.questions} questions of {settings.question_words} "
        f"words with {settings.options} options each about one video of {settings.frames} frames. A DINOv2 of 2 "
        f"layers, a recurrent bridge that gives {settings.visual_tokens} visual tokens, and a Llama of "
        f"{settings.layers} layers and width {settings.width}, with random weights. Frames: read by the encoder. "
        f"Positions: computed by the language model. Seconds: the fastest of {settings.repeats} runs. Difference: of a "
        "score, to a pass for each question."
    )
    rows_of_table = table(("way", "frames", "positions", "seconds", "x", "difference"), rows)
    lines = ["## Questions about one video", "", textwrap.fill(what, 120), "", *rows_of_table]
    return "\n".join(lines)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.questions",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_numbers(parser, Settings()._asdict())
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=None, help="page whose section the table replaces")
    add_clock_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_and_exit(main)
