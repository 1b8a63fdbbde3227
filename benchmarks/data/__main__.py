"""Compares the speed of the data pipeline with decoding alone: ``python -m benchmarks.data``.

Makes H.264 clips with several questions each, writes them into shards and reads them in six ways, all with the same
decoder, number of workers and batch size:

    decoding in the workers      the data loader's workers decode the chosen frames and drop them
    decoding in their servers    the same in processes that can be killed, as the datamodule does
    decoding and resizing        the same, with frames resized for the encoder
    datamodule                   ``InstructionDataModule``: index, order, chat template, collate, loader
    one decode a question        the same with ``conversations_per_video`` 1
    webdataset                   ``webdataset`` reads, shuffles and batches; decoding in the workers, transform, chat
                                 template and collate as in the datamodule

The ways alternate, each in a process of its own. Printed are medians over the rounds; ratios are taken within a round.
A worker's first batch does not count, because it includes the start. With ``--clock cpu``, seconds are processor time
of all processes together (loader, workers, servers). The time to the first batch is wall time, without imports, with an
existing index. Memory is measured in a round of its own: of all processes together, shared pages counted once.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.command_options import add_clock_option, add_numbers, numbers_in
from benchmarks.data.material import Clips, make_material
from benchmarks.data.measuring import Cost, measure_cost, measure_peak
from benchmarks.data.pipelines import PIPELINES, Workload
from command_errors import run_and_exit

GOAL = 0.95
"""Least speed of the datamodule, of decoding alone."""

ALONE, SERVED = "decoding in the workers", "decoding in their servers"
FULL, APART = "datamodule", "one decode a question"


def describe(name: str, rounds: Sequence[dict[str, Cost]], peak: int | None) -> str:
    """One line of the table."""
    cost = [costs[name] for costs in rounds]
    asked = median(one.conversations / one.video for one in cost)
    cells = [name, f"{1 / median(one.video for one in cost):.1f}"]
    cells += [f"{speed(rounds, name, alone):.2f}" for alone in (ALONE, SERVED)]
    cells += [f"{asked:.1f}", f"{asked_speed(rounds, name):.2f}"] if asked else ["-", "-"]
    cells += [f"{median(one.first_batch for one in cost):.1f}", "-" if peak is None else f"{peak / 2**20:.0f}"]
    return f"| {' | '.join(cells)} |"


def speed(rounds: Sequence[dict[str, Cost]], name: str, other: str) -> float:
    """Videos that a pipeline reads in the time in which another reads one."""
    return median(costs[other].video / costs[name].video for costs in rounds)


def asked_speed(rounds: Sequence[dict[str, Cost]], name: str) -> float:
    """Questions that a pipeline reads in the time in which ``one decode a question`` reads one."""
    return median(
        costs[name].conversations / costs[name].video * costs[APART].video / costs[APART].conversations
        for costs in rounds
    )


def measure(clips: Clips, workload: Workload, rounds: int, clock: str, *, memory: bool) -> None:
    """Run everything and print the table."""
    peaks = {name: measure_peak(name, workload) if memory else None for name in PIPELINES}
    costs = []
    for number in range(rounds):  # forwards and backwards, so that a rising or falling load affects all equally
        names = list(PIPELINES)[:: -1 if number % 2 else 1]
        costs.append({name: measure_cost(name, workload, clock) for name in names})
    print(f"{clips}, {workload.material.kilobits_per_second:.0f} kbit/s; {workload.workers} workers, ", end="")
    print(f"batches of {workload.batch_size}, {workload.batches} a run, {rounds} rounds, {clock} seconds")
    print("| pipeline | videos/s | of decoding in workers | of decoding in servers | questions/s ", end="")
    print("| x one decode a question | first batch, s | peak MiB |")
    print("|---" * 8 + "|")
    print("\n".join(describe(name, costs, peaks[name]) for name in PIPELINES))
    for name, alone in (("in the workers", ALONE), ("in their servers", SERVED)):
        found = speed(costs, FULL, alone)
        print(f"datamodule at {found:.3f} of decoding {name}: goal of {GOAL} {'met' if found >= GOAL else 'MISSED'}")
    print(f"{asked_speed(costs, FULL):.2f} times the questions of one decode a question, of {clips.questions} possible")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_numbers(parser, Clips()._asdict())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4, help="videos")
    parser.add_argument("--batches", type=int, default=10, help="of a run, at least two a worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    add_clock_option(parser)
    given = parser.parse_args(arguments)
    clips = Clips(**numbers_in(given, Clips._fields))
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(make_material(Path(folder), clips), given.workers, given.batch_size, given.batches)
        measure(clips, workload, given.rounds, given.clock, memory=not given.no_memory)


if __name__ == "__main__":
    run_and_exit(main)
