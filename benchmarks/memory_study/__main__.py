"""Compares memory designs over tasks, lengths and seeds: ``python -m benchmarks.memory_study --help``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from apps.commands import ROOT
from apps.quickstart.fetch import PartsUnavailableError
from benchmarks.memory_study.data import SHORT, StudySize, prepare

FOLDER = Path("runs/memory_study")
SHORT_FOLDER = Path("runs/memory_study_short")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step of the study.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_study", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    prepare_parser = steps.add_parser("prepare", help="make videos, language model folder and features")
    prepare_parser.add_argument("--out", type=Path, help=f"folder of the study (default: {FOLDER}, or {SHORT_FOLDER})")
    prepare_parser.add_argument("--short", action="store_true", help="a few videos: checks that all works")
    prepare_parser.add_argument("--wheels", type=Path, help="folder with the wheels of the parts")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    out = options.out or (SHORT_FOLDER if options.short else FOLDER)
    try:
        made = prepare(out, SHORT if options.short else StudySize(), wheels=options.wheels)
    except PartsUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    for name, videos in made.num_videos.items():
        frames, questions = made.num_frames[name], made.num_questions[name]
        print(f"{name:28} {videos:5} videos {frames:6} frames {questions:5} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
