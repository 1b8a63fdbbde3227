"""Evaluates a model on the haystack test: short events in long made-up videos.

    python evaluate.py --niavh CONFIG --model MODEL --out DIR [--haystack CLIP ...]

CONFIG is a file in ``configs/niavh`` without its ending, or the path of such a file. The haystack is made up, or the
given clips, joined and repeated. DIR has the answers, ``heatmap.png``, ``heatmap.json``, ``report.json`` and
``report.md``.

Start it with ``torchrun --nproc-per-node N evaluate.py ...`` or ``srun`` to share the videos among processes. The same
command continues a stopped evaluation.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from apps.open_model import add_model_arguments, model_identity, open_given
from datamodules.errors import count_of
from datamodules.haystack.haystack_benchmark import HaystackBenchmark
from membridge.answering_model import VideoLanguageModel
from membridge.evaluation.benchmark_report import build_report, write_report
from membridge.evaluation.benchmark_run import Share
from membridge.evaluation.item_answers import AskingSettings
from membridge.evaluation.score_tables import to_markdown
from membridge.haystack_test.backgrounds import Background, ClipBackground, MadeBackground
from membridge.haystack_test.haystack_config import haystack_config_path, load_haystack_test
from membridge.haystack_test.haystack_run import HaystackRun, frames_read, num_unseen, usual_reading
from membridge.haystack_test.heat_map import heat_map, write_heat_map


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        FileNotFoundError: The config, the model or a clip is missing.
        ValueError: Config, clips, model and options do not fit each other.
    """
    options = _parse(arguments)
    share = Share.of_environment()
    path = haystack_config_path(options.niavh)
    benchmark = load_haystack_test(path)
    background = ClipBackground(options.haystack) if options.haystack else MadeBackground(benchmark.seed)
    if torch.cuda.is_available() and options.device is None and share.world > 1:
        options.device = f"cuda:{share.rank % torch.cuda.device_count()}"
    model = open_given(options)
    run = _run_of(path, benchmark, background, model, options)
    run.answer(model, share)
    _report(run, model, path, options)


def _run_of(
    path: Path,
    benchmark: HaystackBenchmark,
    background: Background,
    model: VideoLanguageModel,
    options: argparse.Namespace,
) -> HaystackRun:
    longest = model.training_facts.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
    reading = options.reading or usual_reading(model)
    settings = {
        "model": model_identity(options.model, options.config),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "config": hashlib.sha256(path.read_bytes()).hexdigest()[:32],
        "haystack": background.identity,
        "max_new_tokens": longest,
        "reading": reading,
        "frames": asdict(frames_read(model, reading)),
    }
    items = benchmark.read().items
    asking = AskingSettings(longest, options.at_once)
    return HaystackRun(benchmark, items, background, options.out, settings, asking, reading)


def _report(run: HaystackRun, model: VideoLanguageModel, config: Path, options: argparse.Namespace) -> None:
    """Write report and heat map if every process has finished."""
    answers = run.answers()
    if len(answers) < len(run.items):
        left = count_of(len(run.items) - len(answers), "question")
        print(f"{left} of other processes are not answered yet; the last process writes the report")
        return
    unseen = num_unseen(run.items, run.background, frames_read(model, run.reading))
    about = {
        "benchmark": f"haystack test, {config.stem}",
        "model": options.model,
        "chosen by": run.benchmark.chosen_by,
        "videos of which the model's frames miss a needle": unseen,
        **run.settings,
    }
    report = build_report(run.benchmark, run.items, answers, about)
    write_report(report, run.out)
    write_heat_map(heat_map(run.items, answers), run.out)
    print(to_markdown(report))
    print(f"The heat map is {run.out / 'heatmap.png'}, the report {run.out / 'report.md'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Evaluate a model on the haystack test.")
    add_model_arguments(parser, as_option=True)
    parser.add_argument("--niavh", required=True, metavar="CONFIG", help="name in configs/niavh, or a YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for answers and reports")
    parser.add_argument("--haystack", type=Path, nargs="+", metavar="CLIP", help="video files (default: made up)")
    parser.add_argument(
        "--reading",
        choices=["session", "complete"],
        help="videos are pushed to a streaming session, which needs little memory (default where the model can), or "
        "their frames are read together, as of a file",
    )
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; 0 = score by likelihood alone")
    parser.add_argument("--at-once", type=int, default=8, help="questions about a video answered at once (default 8)")
    return parser.parse_args(arguments)
