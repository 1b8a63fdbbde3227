"""Writes the haystack test as video files and JSON lines, for lmms-eval and other programs.

    python -m apps.write_haystack CONFIG OUT [--haystack CLIP ...]

CONFIG is a file in ``configs/niavh`` without its ending, or the path of such a file. OUT has ``questions.jsonl`` and
``videos/``. The same command continues a stopped one. docs/benchmarks.md has the task of lmms-eval that reads
the files. ``python evaluate.py --niavh`` needs no files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from command_errors import run_and_exit
from datamodules.errors import count_of
from membridge.haystack_test.backgrounds import ClipBackground, MadeBackground
from membridge.haystack_test.haystack_config import haystack_config_path, load_haystack_test
from membridge.haystack_test.haystack_files import QUESTIONS, write_haystack_files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        FileNotFoundError: The config or a clip is missing.
        ValueError: An option is out of range.
    """
    parser = argparse.ArgumentParser(prog="python -m apps.write_haystack", description=__doc__.splitlines()[0])
    parser.add_argument("config", metavar="CONFIG", help="name in configs/niavh, or a YAML file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--haystack", type=Path, nargs="+", metavar="CLIP", help="video files (default: made up)")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels (default 224)")
    parser.add_argument("--fps", type=int, default=2, help="frames a second (default 2)")
    options = parser.parse_args(arguments)
    benchmark = load_haystack_test(haystack_config_path(options.config))
    background = ClipBackground(options.haystack) if options.haystack else MadeBackground(benchmark.seed)
    number = write_haystack_files(benchmark, background, options.out, size=options.size, fps=options.fps)
    print(f"{count_of(number, 'video')} and {options.out / QUESTIONS}")


if __name__ == "__main__":
    run_and_exit(main)
