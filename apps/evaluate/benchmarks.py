"""Evaluates a model on public benchmarks.

    python evaluate.py --model MODEL --benchmark NAME [NAME ...] --data ROOT --out DIR

NAME is a file in ``configs/benchmark`` without its ending, or the path of such a file. ROOT holds a folder for each
benchmark, named as its YAML says. Each benchmark has a folder in DIR with the answers, ``report.json``, ``report.md``
and ``scores.png``.

Start it with ``torchrun --nproc-per-node N evaluate.py ...`` or ``srun`` to share the videos among processes. The same
command continues a stopped evaluation; items whose video was missing are tried again.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from apps.open_model import add_model_arguments, model_identity, open_given
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.benchmark_config import config_path, load_benchmark
from datamodules.benchmarks.item import BenchmarkItem
from datamodules.benchmarks.media_search import find_media
from datamodules.errors import SampleError, count_of
from membridge.answering_model import VideoLanguageModel
from membridge.evaluation.benchmark_report import build_report, write_report, write_submission
from membridge.evaluation.benchmark_run import BenchmarkRun, Share
from membridge.evaluation.item_answers import AskingSettings
from membridge.evaluation.score_tables import to_markdown

_MOST_NAMED = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        FileNotFoundError: A benchmark, its questions or all of its media are missing.
        ValueError: Files, model and options do not fit each other, or no question of a benchmark could be answered.
    """
    options = _parse(arguments)
    share = Share.of_environment()
    chosen = [_prepared(name, options, is_first=share.rank == 0) for name in options.benchmark]
    if torch.cuda.is_available() and options.device is None and share.world > 1:
        options.device = f"cuda:{share.rank % torch.cuda.device_count()}"
    model = open_given(options)
    identity = model_identity(options.model, options.config)
    without = []
    for name, benchmark, items in chosen:
        run = _run_of(name, benchmark, items, model, identity, options)
        run.answer(model, share)
        if not _report(run, name, options):
            without.append(f"{name} ({next(iter(run.answers().values()))['error']})")
    if without:
        raise ValueError(f"no question was answered of {'; '.join(without)}. Mend that; the same command asks again")


def _prepared(name: str, options: argparse.Namespace, *, is_first: bool) -> tuple[str, Benchmark, list[BenchmarkItem]]:
    """A benchmark with its items, checked before the model is opened."""
    benchmark = load_benchmark(name)
    if options.most_items is not None:
        benchmark.most_items = options.most_items
    root = options.data / benchmark.folder
    found = benchmark.read(root)
    items = benchmark.chosen_items(found.items)
    stem = Path(name).stem
    if not items:
        raise ValueError(f"{stem} has no question in {root}; see python -m datamodules.benchmarks inspect --help")
    _check_ids(items, stem)
    missing = _missing_media(items, root / benchmark.videos)
    if missing and len(missing) == len({part.path for item in items for part in item.media}):
        raise FileNotFoundError(f"all videos of {stem} are missing, the first: {next(iter(missing.values()))}")
    if is_first:
        for problem in found.problems[:_MOST_NAMED]:
            tqdm.write(f"{stem}: {problem.where}: {problem.what}", file=sys.stderr)
        if len(found.problems) > _MOST_NAMED:
            tqdm.write(f"{stem}: and {len(found.problems) - _MOST_NAMED} problems more", file=sys.stderr)
        if missing:
            named = ", ".join(list(missing)[:_MOST_NAMED])
            tqdm.write(f"{stem}: {count_of(len(missing), 'video')} of it are missing: {named}", file=sys.stderr)
    return stem, benchmark, items


def _check_ids(items: Sequence[BenchmarkItem], name: str) -> None:
    """Refuse ids that no answer can be found by; a reader of the user's own may give such.

    Raises:
        ValueError: An id is no text, or two questions have the same.
    """
    seen: set[str] = set()
    for item in items:
        if not isinstance(item.id, str) or item.id in seen:
            what = "is no text" if not isinstance(item.id, str) else "is that of two questions"
            raise ValueError(f"{name}: the id {item.id!r} {what}; correct the benchmark's reader")
        seen.add(item.id)


def _missing_media(items: Sequence[BenchmarkItem], folder: Path) -> dict[str, str]:
    """Why media cannot be found, by their names."""
    missing = {}
    for path in dict.fromkeys(part.path for item in items for part in item.media):
        try:
            find_media(folder, path)
        except (OSError, SampleError) as error:
            missing[path] = str(error)
    return missing


def _run_of(
    name: str,
    benchmark: Benchmark,
    items: list[BenchmarkItem],
    model: VideoLanguageModel,
    identity: str,
    options: argparse.Namespace,
) -> BenchmarkRun:
    longest = model.training_facts.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
    settings: dict[str, Any] = {
        "weights": identity,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "config": hashlib.sha256(config_path_of(name, options).read_bytes()).hexdigest()[:32],
        "max_new_tokens": longest,
        "timed": options.timed,
        "most_items": "all" if benchmark.most_items is None else benchmark.most_items,
    }
    videos = options.data / benchmark.folder / benchmark.videos
    asking = AskingSettings(longest, options.at_once)
    return BenchmarkRun(benchmark, items, videos, options.out / name, settings, asking, options.timed)


def config_path_of(stem: str, options: argparse.Namespace) -> Path:
    """The YAML file that was given for a benchmark."""
    return config_path(next(name for name in options.benchmark if Path(name).stem == stem))


def _report(run: BenchmarkRun, name: str, options: argparse.Namespace) -> bool:
    """Write the report if every process has finished.

    Returns:
        Whether a question was answered, or may still be.
    """
    answers = run.answers()
    if len(answers) < len(run.items):
        left = count_of(len(run.items) - len(answers), "question")
        print(f"{name}: {left} of other processes are not answered yet; the last process writes the report")
        return True
    about = {"benchmark": name, "model": options.model, **run.settings}
    report = build_report(run.benchmark, run.items, answers, about, skip_missing=options.skip_missing)
    write_report(report, run.out)
    num_hidden = write_submission(run.benchmark, run.items, answers, run.out / "submission.json")
    print(to_markdown(report))
    print(f"The report is in {run.out / 'report.md'}")
    if num_hidden:
        print(f"Answers to {count_of(num_hidden, 'question')} are not public; the choices are in submission.json")
    return any("error" not in line for line in answers.values())


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is not a number of at least {least}")
        return number

    return parse


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Evaluate a model on public benchmarks.")
    add_model_arguments(parser, as_option=True)
    parser.add_argument("--benchmark", nargs="+", required=True, metavar="NAME", help="names, or YAML files")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder of all benchmarks")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for answers and reports")
    parser.add_argument(
        "--timed",
        choices=["session", "clip"],
        default="session",
        help="questions about a video that plays: by a streaming session (default), or about the video up to then",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave questions without answer out, instead of counting them wrong"
    )
    parser.add_argument("--max-new-tokens", type=_at_least(0), help="longest answer; 0 = score by likelihood alone")
    parser.add_argument(
        "--at-once", type=_at_least(1), default=8, help="questions about a video answered at once (default 8)"
    )
    parser.add_argument("--most-items", type=_at_least(1), help="evaluate only so many questions, evenly spread")
    options = parser.parse_args(arguments)
    stems = [Path(name).stem for name in options.benchmark]
    if len(set(stems)) < len(stems):
        parser.error(f"two benchmarks have the same name: {', '.join(sorted(stems))}")
    return options
