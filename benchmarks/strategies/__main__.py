"""Trains one model under every strategy of ``configs/strategy``: ``python -m benchmarks.strategies``.

Each strategy trains from the same weights on the same global batches for a few steps, on two processes (on CUDA one a
GPU) and once more on one, and saves a checkpoint. Prints, in MiB:

- parameters, gradients and optimizer states that a rank has after the backward pass, counted from the tensors;
- the largest growth of memory while the model was built, trained and saved: on the CPU of the resident size (mapped
  files and communication included), on CUDA of the tensors;
- the size of the checkpoint and of each rank's part; how many tensors of frozen parts it has (0, because frozen parts
  are loaded from their own folders); and how many tensors of trained parts it has;
- the largest difference of a step's loss to ``single_device``, and the time of a step relative to DDP.

Exits 1 if a frozen tensor is in a checkpoint, checkpoints have different tensors, or a loss differs by more than
1e-4. ZeRO's buckets have 2 M elements here; all other settings are those of the configs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from apps.commands import ROOT, environment
from benchmarks.command_options import add_numbers, numbers_in
from benchmarks.strategies.report import Outcome, describe, loss_difference, read_outcome
from benchmarks.strategies.training import CHECKPOINT
from benchmarks.strategies.workload import Settings, Sizes, write_parts
from command_errors import run_and_exit
from components.checkpoints.run_checkpoint import RunCheckpoint

SINGLE, PACE = "single_device", "ddp"
STRATEGIES = (SINGLE, PACE, "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2")
LOSS_LIMIT = 1e-4
_FEWEST_STEPS = 3  # two warm up
_LONGEST_RUN_S = 1200.0


def train_in_processes(folder: Path, name: str, num_processes: int) -> None:
    """Run all ranks of one strategy.

    Raises:
        RuntimeError: They failed or hung; the end of what they printed is in the message.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    command += ["-m", "benchmarks.strategies.training", str(folder), name]
    # Freed memory must not count.
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**environment(), **own}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status: int | str = process.wait(_LONGEST_RUN_S)
        except subprocess.TimeoutExpired:
            status = f"nothing after {_LONGEST_RUN_S:g} s"
        finally:
            process.terminate()  # it ends its ranks
            process.wait()
    if status != 0:
        printed = log.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"strategy {name} ended with {status}; its log ends:\n{printed[-4000:]}")


def measure(folder: Path, names: Sequence[str], settings: Settings, num_processes: int) -> dict[str, Outcome]:
    """Train with each strategy, open its checkpoint, and read the measurements.

    Args:
        folder: Receives everything.
        names: Names of strategies.
        settings: Of the run.
        num_processes: Of every strategy but that for one device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings.write(folder / "settings.json")
    write_parts(folder, settings.sizes)
    outcomes = {}
    for name in names:
        ranks = 1 if name == SINGLE else num_processes
        train_in_processes(folder, name, ranks)
        stored = RunCheckpoint(folder / CHECKPOINT.format(name)).parameters
        outcomes[name] = read_outcome(folder, name, ranks, stored)
        print(f"{name}: {outcomes[name].seconds:.2f} s a step", file=sys.stderr, flush=True)
    return outcomes


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Failed checks, one line each."""
    wrong = []
    reference = outcomes[SINGLE]
    for name, outcome in outcomes.items():
        if outcome.frozen_saved or not outcome.frozen:
            wrong.append(f"{name} saved {outcome.frozen_saved} of {outcome.frozen} frozen tensors")
        if outcome.stored != reference.stored:
            wrong.append(f"{name} stored other tensors: {sorted(outcome.stored ^ reference.stored)[:5]}")
        difference = loss_difference(outcome, reference)
        if not difference <= LOSS_LIMIT:
            wrong.append(f"{name}'s losses differ by {difference:.1e}")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status.
    """
    options = _parse(arguments)
    sizes = Sizes(**numbers_in(options, Sizes._fields))
    names = [SINGLE, PACE, *(name for name in options.strategies if name not in (SINGLE, PACE))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        outcomes = measure(folder, names, Settings(sizes, options.device), options.processes)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{sizes}, {device}, {os.cpu_count()} cores, torch {torch.__version__}; MiB")
    if options.device == "cpu":
        print("Times on a CPU say nothing about GPUs.")
    print(describe(outcomes, SINGLE, PACE, options.device))
    wrong = failures(outcomes)
    print("\n".join(wrong) or f"losses within {LOSS_LIMIT:g}, no frozen tensor saved, the same tensors stored")
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description="Compares strategies.")
    add_numbers(parser, Sizes()._asdict())
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--processes", type=int, help="default: one a GPU, on the CPU 2")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, help="new folder for all files, which then stay")
    options = parser.parse_args(arguments)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.processes is None:
        options.processes = torch.cuda.device_count() if options.device == "cuda" else 2
    if options.steps < _FEWEST_STEPS:
        parser.error(f"--steps {options.steps}: at least {_FEWEST_STEPS} are needed, for two warm up")
    if options.out is not None and options.out.exists():
        parser.error(f"--out {options.out} is there already; choose another folder")
    return options


if __name__ == "__main__":
    run_and_exit(main)
