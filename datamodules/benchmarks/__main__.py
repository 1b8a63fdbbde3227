"""Looks through files of benchmarks: ``python -m datamodules.benchmarks inspect --format F --questions Q``.

    python -m datamodules.benchmarks inspect --format videollamb --questions test_q.json --answers test_a.json
    python -m datamodules.benchmarks inspect --format nextqa --questions test.csv --videos NExTVideo
    python -m datamodules.benchmarks inspect --format mvbench --data data

``--format`` is the name of a file in ``configs/benchmark`` or a YAML file; ``table`` reads any table of questions. It
prints how many items, options, types and videos there are, and every problem. With ``--videos`` it looks for every
video, and measures it. The exit status is 1 if there are problems, and 2 if a file is missing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from command_errors import run_and_exit
from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.benchmarks.file_inspection import describe, inspect

HAS_PROBLEMS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments; None = those of the process.

    Returns:
        Exit status: 0, or 1 where there are problems.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The format has no file of answers, but one was given.
    """
    options = _parser().parse_args(arguments)
    benchmark = load_benchmark(options.format)
    root = Path() if options.data is None else options.data / benchmark.folder
    videos = options.videos
    published = Path(benchmark.questions).name
    if options.questions is not None and (options.questions / published).is_file():
        options.questions /= published
    if options.questions is not None:
        benchmark.questions = str(options.questions.absolute())
        benchmark.published_items = None  # other files have other numbers
        root = options.questions.absolute().parent
    if options.answers is not None:
        if not hasattr(benchmark, "answers"):
            raise ValueError(
                f"the format {options.format} has its answers in the file of questions; leave --answers out"
            )
        benchmark.answers = str(options.answers.absolute())
    elif options.questions is not None and hasattr(benchmark, "answers"):
        is_published = options.questions.name == published
        benchmark.answers = _beside(root, benchmark.answers) if is_published else None
    if videos is None and options.questions is None:
        videos = root / benchmark.videos
    found = inspect(benchmark, root, videos)
    print("\n".join(describe(found)))
    return HAS_PROBLEMS if found.problems else 0


def _beside(folder: Path, name: str | None) -> str | None:
    """The format's file of answers if it is beside that of the questions; None: answers are in the questions' file."""
    return name if name is not None and (folder / name).is_file() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.benchmarks", description="Work with benchmarks' files."
    )
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "inspect", help="print what files hold, and every problem"
    )
    command.add_argument("--format", required=True, metavar="F", help="name in configs/benchmark, or a YAML file")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--questions", type=Path, metavar="Q", help="file of questions, or folder with several")
    source.add_argument("--data", type=Path, metavar="ROOT", help="folder of all benchmarks, for the published files")
    command.add_argument(
        "--answers", type=Path, metavar="A", help="file of answers, where they are in one of their own"
    )
    command.add_argument("--videos", type=Path, metavar="DIR", help="folder of the videos, which are then looked for")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
