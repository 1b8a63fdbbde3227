"""Compares evaluations on the same questions: ``python evaluate.py compare A B [...]``.

A and B are ``--out`` folders of ``evaluate.py``. It prints two tables: the score of every model, and the difference of
every pair with a paired bootstrap interval and McNemar's exact test, corrected by Holm's method.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from components.checkpoints.atomic_folder import write_atomically
from membridge.evaluation.comparison import compare_runs
from membridge.evaluation.comparison_page import to_latex, to_markdown
from membridge.evaluation.scored_runs import read_scored_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line after ``compare``; that of the process by default.

    Raises:
        FileNotFoundError: A folder holds no evaluation.
        ValueError: The evaluations cannot be compared.
    """
    options = _parse(arguments)
    runs = [read_scored_run(folder, options.scorer) for folder in options.runs]
    comparisons = compare_runs(runs, across_prompts=options.across_prompts, seed=options.seed)
    page = to_latex(runs, comparisons) if options.latex else to_markdown(runs, comparisons)
    if options.out is None:
        print(page)
    else:
        write_atomically(options.out, page)
        print(f"The comparison of {len(runs)} evaluations is in {options.out}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py compare", description="Compare evaluations.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="--out folders of evaluate.py")
    parser.add_argument("--scorer", help="scores of a benchmark to compare, such as 'generated (strict)'")
    parser.add_argument("--across-prompts", action="store_true", help="compare although the prompts differ")
    parser.add_argument("--latex", action="store_true", help="LaTeX tables instead of Markdown")
    parser.add_argument("--out", type=Path, help="file to write; printed by default")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("give at least two folders to compare")
    return options
