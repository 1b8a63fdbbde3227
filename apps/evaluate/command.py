"""The command line of ``evaluate.py``: what to evaluate, on what, and where the results go."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.evaluate.shards import evaluate_shards
from lightning_modules.console.option_spelling import add_option
from lightning_modules.run.run_lock import RunLock


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.

    Returns:
        The report.
    """
    options = _parse(args)
    lock = RunLock(options.out)
    lock.take()
    try:
        return evaluate_shards(options)
    except (KeyboardInterrupt, SystemExit) as ending:
        if isinstance(ending.__context__ or ending, KeyboardInterrupt):  # Lightning makes an exit of it
            print(f"\nAnswers so far are in {options.out}; the same command goes on with the others", file=sys.stderr)
        raise
    finally:
        lock.release()


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on shards: accuracy by length and category.")
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of a run, or its export; without it, --config is evaluated"
    )
    parser.add_argument("--data", nargs="+", required=True, help="shards, folders or glob patterns")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions and report")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        help="the run's config.yaml, in the checkpoint by default; or several files, merged in order",
    )
    parser.add_argument(
        "--averaged", action="store_true", help="take running averages of the weights where the checkpoint has them"
    )
    add_option(parser, "--batch-size", type=int, help="samples at once; as in the run by default")
    add_option(parser, "--max-new-tokens", type=int, help="longest answer; as in the run by default")
    add_option(
        parser,
        "--max-skipped-share",
        type=float,
        help="largest part of the samples that may be left out, from 0 to 1; as in the run by default",
    )
    parser.add_argument("--restart", action="store_true", help="ask all questions again")
    options = parser.parse_args(args)
    if options.checkpoint is None and options.config is None:
        parser.error("give --checkpoint, or --config to evaluate the pretrained weights that it names")
    if options.checkpoint is None and options.averaged:
        parser.error("--averaged needs a --checkpoint that has averages")
    return options
