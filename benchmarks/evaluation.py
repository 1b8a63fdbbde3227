"""Measures how fast a benchmark is evaluated: ``python -m benchmarks.evaluation --threads 1 --clock cpu``.

Chooses options of questions about videos in files, in two ways:

- a pass for each question and option: the file is decoded, and encoder, bridge and language model run, every time;
- a pass for each video: as ``evaluate.py --benchmark`` does.

Prints for each: files decoded, frames that the encoder read, questions a second. Exits with 1 if a likelihood differs
by more than 1e-5 (float32, CPU) or a choice differs, or if a pass for each video is less than 5 times as fast.
"""

import argparse
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import torchvision_import  # noqa: F401  must precede the first import of torchvision by anyone
from benchmarks.command_options import CLOCKS, add_clock_option, add_numbers, numbers_in
from benchmarks.data.material import Clips, encode_clip
from benchmarks.full_size.report import device_name
from benchmarks.questions import Settings as QuestionSettings
from benchmarks.questions import build_video_model
from benchmarks.results_page import replace_section, replace_summary, table
from command_errors import run_and_exit
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart
from membridge.evaluation.item_answers import AskingSettings, ask_items, read_parts

DIFFERENCE_LIMIT = 1e-5
SPEED_LIMIT = 5.0
ANCHOR = "speed-of-an-evaluation"
EACH_OPTION, EACH_VIDEO = "a pass for each question and option", "a pass for each video"
_IMAGE_SIZE = 84
_LIKELIHOOD = AskingSettings(max_new_tokens=0, at_once=16)


class Settings(NamedTuple):
    """Size of the model, the videos and the questions."""

    videos: int = 2
    frames: int = 16
    visual_tokens: int = 64
    questions: int = 10
    options: int = 5
    layers: int = 4
    width: int = 256


class Measured(NamedTuple):
    """One way to evaluate."""

    decoded: int  # files
    frames: int
    seconds: float
    likelihoods: Tensor  # [questions of all videos, options]


class WordQuestions(Benchmark):
    """Questions and options that differ in length, about made videos."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("none", chosen_by="text")
        self.settings = settings

    def read(self, root: Path) -> BenchmarkFiles:
        """All items."""
        options = tuple(" ".join(["word"] * (1 + number)) for number in range(self.settings.options))
        items = [
            BenchmarkItem(f"{video}-{number}", (MediaPart(f"{video}.mp4"),), " ".join(["word"] * (8 + number)), options)
            for video in range(self.settings.videos)
            for number in range(self.settings.questions)
        ]
        return BenchmarkFiles(items, [])


def evaluate_each_option(model: VideoLanguageModel, settings: Settings, folder: Path) -> list[tuple[float, ...]]:
    """Decode and read the video for every question and option."""
    benchmark = WordQuestions(settings)
    rows = []
    for item in benchmark.read(folder).items:
        row: list[float] = []
        for option in item.options:
            read = read_parts(model, item.media, folder)
            [answer] = ask_items(model, benchmark, [item._replace(options=(option,))], read, _LIKELIHOOD)
            row += answer.likelihoods
        rows.append(tuple(row))
    return rows


def evaluate_each_video(model: VideoLanguageModel, settings: Settings, folder: Path) -> list[tuple[float, ...]]:
    """Decode and read every video once."""
    benchmark = WordQuestions(settings)
    items = benchmark.read(folder).items
    rows = []
    for first in range(0, len(items), settings.questions):
        of_video = items[first : first + settings.questions]
        read = read_parts(model, of_video[0].media, folder)
        rows += [answer.likelihoods for answer in ask_items(model, benchmark, of_video, read, _LIKELIHOOD)]
    return rows


WAYS: dict[str, Callable[..., list[tuple[float, ...]]]] = {
    EACH_OPTION: evaluate_each_option,
    EACH_VIDEO: evaluate_each_video,
}


@contextmanager
def counted_frames(model: VideoLanguageModel) -> Iterator[list[int]]:
    """Collect the number of frames of every call of the encoder."""
    counts: list[int] = []

    def count(_: Any, arguments: tuple[Tensor, ...]) -> None:
        counts.append(len(arguments[0]))

    hook = model.encoder.register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def measure(
    way: Callable[..., list[tuple[float, ...]]],
    model: VideoLanguageModel,
    settings: Settings,
    folder: Path,
    clock: Callable[[], float],
) -> Measured:
    """Evaluate once, after a first video that starts the decoder."""
    way(model, settings._replace(videos=1, questions=1), folder)
    with counted_frames(model) as counts:
        start = clock()
        likelihoods = way(model, settings, folder)
        seconds = clock() - start
    return Measured(len(counts), sum(counts), seconds, torch.tensor(likelihoods))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if a likelihood or choice differs, or a pass for each video is not fast enough.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings, device = Settings(**numbers_in(options, Settings._fields)), torch.device(options.device)
    sizes = QuestionSettings(settings.frames, settings.visual_tokens, layers=settings.layers, width=settings.width)
    model = build_video_model(sizes, device)
    model.training_facts = TrainingFacts(FrameSettings(_IMAGE_SIZE, num_frames=settings.frames))
    with tempfile.TemporaryDirectory() as name:
        for video in range(settings.videos):
            (Path(name) / f"{video}.mp4").write_bytes(encode_clip(Clips(), video))
        clock = CLOCKS[options.clock]
        measured = {way: measure(run, model, settings, Path(name), clock) for way, run in WAYS.items()}
    slow, fast = measured[EACH_OPTION], measured[EACH_VIDEO]
    command = shlex.join(["python", "-m", "benchmarks.evaluation", *given])
    machine = f"CPU, threads: {torch.get_num_threads()}" if device.type == "cpu" else device_name(device)
    section = describe(measured, settings, f"`{command}` ({machine}; {date.today()})")
    print(section)
    ratio = slow.seconds / fast.seconds
    if options.results is not None:
        figure = f"{ratio:.1f} times as fast as a pass for each question and option, same choices"
        page = replace_section(options.results.read_text(encoding="utf-8"), "evaluation", section)
        page = replace_summary(page, ANCHOR, figure=figure, device=machine, made=str(date.today()))
        options.results.write_text(page, encoding="utf-8")
    # Other kernels run on CUDA, where float32 products may be rounded to TF32.
    limit = DIFFERENCE_LIMIT if device.type == "cpu" else 1e-3
    same = bool(((slow.likelihoods - fast.likelihoods).abs() <= limit).all())
    same = same and torch.equal(slow.likelihoods.argmax(dim=1), fast.likelihoods.argmax(dim=1))
    print(f"\nlikelihoods within {limit:g} and equal choices: {'yes' if same else 'NO'}")
    print(f"a pass for each video {SPEED_LIMIT:g} times as fast: {'yes' if ratio >= SPEED_LIMIT else 'NO'}")
    return 0 if same and ratio >= SPEED_LIMIT else 1


def describe(measured: dict[str, Measured], settings: Settings, made_by: str) -> str:
    """The section of the results page."""
    first = measured[EACH_OPTION]
    num_questions = settings.videos * settings.questions
    rows = [
        [
            name,
            str(each.decoded),
            str(each.frames),
            f"{num_questions / each.seconds:.2f}",
            f"{first.seconds / each.seconds:.1f}",
            f"{float((each.likelihoods - first.likelihoods).abs().max()):.1e}",
        ]
        for name, each in measured.items()
    ]
    what = (
        f"{made_by}; torch {torch.__version__}, float32. {settings.questions} questions with {settings.options} "
        f"options about each of {settings.videos} videos of 10 s (H.264, 426x240), {settings.frames} frames each. "
        f"A DINOv2 of 2 layers, a recurrent bridge that gives {settings.visual_tokens} visual tokens, and a Llama of "
        f"{settings.layers} layers and width {settings.width}, with random weights. Options are chosen by the "
        "likelihood of their text. Difference: of a likelihood, to the first way. Decoding runs in a process of its "
        "own, whose time only wall time has."
    )
    columns = ("way", "files decoded", "frames encoded", "questions/s", "x", "difference")
    return "\n".join(["## Speed of an evaluation", "", textwrap.fill(what, 120), "", *table(columns, rows)])


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
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
