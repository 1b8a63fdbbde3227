"""Checks that a killed run resumes exactly: ``python -m benchmarks.resume --kills 20``.

Trains tiny parts on real mp4 shards with ``train.py`` on the CPU, with a checkpoint every two steps. The run is killed
with SIGKILL at random moments: while it starts, trains, or writes a checkpoint. It is restarted from ``last.ckpt``, as
a user would do, until training has finished. Then the same run changes from 2 processes to 1 and back (DDP over gloo),
killed each time in the middle of an epoch and of a pass over the data.

Both are compared with an uninterrupted run on one process. Samples trained again after a kill are not doubled, because
the weights from the first time are lost; ``benchmarks/resume/history.py`` defines what counts. On one process the
losses must be equal bit for bit. With another number of processes, sums are rounded differently, so the largest
difference is printed. Exits with 1 if a sample is lost, doubled or trained in another step, or a loss differs (for 2 ->
1 -> 2 by more than 1e-4).
"""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.resume.attempts import Attempt, Ended
from benchmarks.resume.history import Comparison, History, compare, surviving
from benchmarks.resume.workload import Run, build_workload
from command_errors import run_and_exit

DROPOUT = 0.1
ROUNDING_LIMIT = 1e-4
"""Largest difference of a loss between one process and several."""

_MOMENTS = ("saving", "training", "saving", "training", "starting")
_STEPS_A_KILL = 8  # more than between two kills, so that no run finishes before its last kill
_STEPS_BEFORE_CHANGE = 7


def train_straight(run: Run) -> History:
    """Train without an interruption."""
    with Attempt(run, 0, processes=1) as attempt:
        return attempt.finish().steps


def train_with_kills(run: Run, kills: int, seed: int) -> list[Ended]:
    """Train with kills at random moments, until training has finished.

    Args:
        run: What is trained.
        kills: Number of kills.
        seed: Seed of the moments.
    """
    chance = random.Random(seed)
    startups = [10.0]  # seconds
    ended: list[Ended] = []
    for number in range(kills):
        moment = _MOMENTS[number % len(_MOMENTS)]
        with Attempt(run, number, processes=1) as attempt:
            if moment == "saving":
                end = attempt.kill_while_saving(chance.randint(1, 3))
            elif moment == "training":
                end = attempt.kill_after_steps(chance.randint(1, 3), chance.uniform(0.0, 0.2))
            else:
                end = attempt.kill_after_seconds(chance.uniform(0.1, 1.0) * min(startups))
        startups += [] if end.startup_seconds is None else [end.startup_seconds]
        ended.append(end)
        where = f"steps {min(end.steps)} to {max(end.steps)}" if end.steps else "no step yet"
        print(f"kill {number + 1}: {moment}, {where}{', unfinished file' * end.killed_while_saving}", flush=True)
    with Attempt(run, kills, processes=1) as attempt:
        return [*ended, attempt.finish()]


def train_with_changes(run: Run) -> list[Ended]:
    """Train with 2, then 1, then 2 processes, killed in between."""
    ended = []
    for number, processes in enumerate((2, 1)):
        with Attempt(run, number, processes) as attempt:
            ended.append(attempt.kill_after_steps(_STEPS_BEFORE_CHANGE, 0.0))
        print(f"killed with {processes} processes after step {max(ended[-1].steps)}", flush=True)
    with Attempt(run, len(ended), processes=2) as attempt:
        return [*ended, attempt.finish()]


def describe(name: str, ended: Sequence[Ended], result: Comparison) -> str:
    """One line of the table."""
    kills, saving = len(ended) - 1, sum(end.killed_while_saving for end in ended)
    again = sum(len(end.steps) for end in ended) - result.steps
    cells = [name, kills, saving, result.steps, again, result.lost, result.doubled]
    cells += ["none" if step is None else step for step in (result.first_other_samples, result.first_other_loss)]
    return f"| {' | '.join(map(str, cells))} | {result.largest_difference:.1e} |"


def is_exact(result: Comparison, steps: int, limit: float) -> bool:
    """Whether a run trained on the same samples in the same steps, its losses within a limit."""
    same = result.lost == result.doubled == 0 and result.first_other_samples is None and result.steps == steps
    return same and result.largest_difference <= limit


def measure(folder: Path, kills: int, seed: int) -> int:
    """Train all runs and print the table; returns the exit status."""
    parts, steps = build_workload(folder / "parts", dropout=DROPOUT), _STEPS_A_KILL * kills + 20
    straight = train_straight(Run(parts, folder / "straight", steps))
    ended = train_with_kills(Run(parts, folder / "killed", steps), kills, seed)
    killed = compare(surviving([end.steps for end in ended]), straight)
    exact = is_exact(killed, steps, 0.0)
    rows = [describe(f"1 process, dropout {DROPOUT}", ended, killed)]

    # Every rank has its own dropout masks, so they cannot be the same with another number of ranks.
    parts, steps = build_workload(folder / "parts-without-dropout", dropout=0.0), 3 * _STEPS_BEFORE_CHANGE + 9
    straight = train_straight(Run(parts, folder / "straight-without-dropout", steps))
    ended = train_with_changes(Run(parts, folder / "changed", steps))
    changed = compare(surviving([end.steps for end in ended]), straight)
    exact &= is_exact(changed, steps, ROUNDING_LIMIT)
    rows.append(describe("2 -> 1 -> 2 processes", ended, changed))

    print("| run | kills | while saving | steps | trained again | lost | doubled ", end="")
    print("| first step with other samples | with another loss | largest difference |")
    print("|" + "---|" * 10)
    print("\n".join(rows))
    where = "none" if killed.first_other_loss is None else killed.first_other_loss
    print(f"lost={killed.lost + changed.lost} doubled={killed.doubled + changed.doubled}", end=" ")
    print(f"first step at which losses differ (1 process): {where}")
    return 0 if exact else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if a resumed run differs from the uninterrupted one.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills")
    parser.add_argument("--out", type=Path, help="new folder for records and checkpoints, which then stay")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() if options.out is None else nullcontext(options.out) as folder:
        return measure(Path(folder).resolve(), options.kills, options.seed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no training process is left behind
    run_and_exit(main)
