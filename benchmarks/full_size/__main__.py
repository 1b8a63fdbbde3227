"""Measures time and memory of a 7B model on one GPU: ``python -m benchmarks.full_size --results docs/RESULTS.md``.

Builds the model of ``configs/model/videollamb_7b.yaml`` with random weights on the device, in bfloat16: nothing is
downloaded. Prints two tables, and writes them into the results page if one is given:

- a training step (forward, loss, backward with activation checkpointing, AdamW) at 16 and 320 frames: seconds, peak
  memory, operations by the project's own counter and their share of the device's peak (MFU), by what trains;
- the longest video that fits for inference, read whole and streamed.

``--bridges`` are the published one and the project's default (selective), ``--trains`` says what trains. If a case
does not fit into memory, its row says so. It needs a GPU; ``--tiny`` runs the same code with tiny sizes anywhere, to
check that it works, and writes no results.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks.full_size.building import BRIDGE_FORMS, TRAINS
from benchmarks.full_size.inference import InferenceRow, measure_inference
from benchmarks.full_size.report import (
    ANCHOR,
    SECTION,
    describe,
    device_name,
    headline,
    inference_cells,
    training_cells,
)
from benchmarks.full_size.sizes import FULL, FULL_WORKLOAD, TINY, TINY_WORKLOAD, Workload
from benchmarks.full_size.training import TrainingRow, measure_training
from benchmarks.results_page import replace_section, replace_summary
from command_errors import run_and_exit
from lightning_modules.monitoring.peak_flops import peak_flops_of

_COUNTS = ("videos", "warm_up", "steps", "most_frames", "most_streamed", "grain")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    shape, workload = (TINY, TINY_WORKLOAD) if options.tiny else (FULL, FULL_WORKLOAD)
    workload = _chosen(workload, options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops_of(device, "bf16-mixed")
    training: list[TrainingRow] = []
    inference: list[InferenceRow] = []
    for form in options.bridges:
        for trains in options.trains:
            for step in measure_training(shape, form, trains, workload, device):
                training.append(step)
                _tell(training_cells(step, peak))
        for video in measure_inference(shape, form, workload, device):
            inference.append(video)
            _tell(inference_cells(video, peak))
    section = describe(
        training,
        inference,
        workload=workload,
        peak=peak,
        command=shlex.join(["python", "-m", "benchmarks.full_size", *given]),
        device=device_name(device),
        made=date.today(),
        tiny=options.tiny,
    )
    print(section)
    if options.results is not None:
        page = options.results.read_text(encoding="utf-8") if options.results.exists() else ""
        page = replace_section(page, SECTION, section)
        figure = headline(training, inference)
        page = replace_summary(page, ANCHOR, figure=figure, device=device_name(device), made=str(date.today()))
        options.results.write_text(page, encoding="utf-8")
    return 0


def _tell(cells: Sequence[str]) -> None:
    """Print a row as soon as it is measured; the tables come at the end."""
    print(" | ".join(cells), file=sys.stderr, flush=True)


def _chosen(workload: Workload, options: argparse.Namespace) -> Workload:
    chosen = {name: getattr(options, name) for name in _COUNTS if getattr(options, name) is not None}
    frames = workload.frames if options.frames is None else tuple(options.frames)
    return workload._replace(frames=frames, **chosen)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bridges", nargs="+", choices=BRIDGE_FORMS, default=BRIDGE_FORMS)
    parser.add_argument("--trains", nargs="+", choices=TRAINS, default=list(TRAINS), help="what trains")
    parser.add_argument("--frames", type=_positive, nargs="+", help="frames a video in training")
    for name in _COUNTS:
        default = getattr(FULL_WORKLOAD, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, help=f"default: {default}")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, also on a CPU, only to check that it works")
    parser.add_argument("--results", type=Path, help="page that gets the tables, such as docs/RESULTS.md")
    options = parser.parse_args(arguments)
    if options.tiny and options.results is not None:
        parser.error("--tiny measures nothing worth keeping, so it writes no --results: leave one of them out")
    if not options.tiny and not torch.cuda.is_available():
        parser.error(
            "no CUDA device is there, and the 7B shape is measured on one: run this where torch.cuda.is_available() "
            "is true, or add --tiny to run the same code with tiny sizes here"
        )
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {value}")
    return value


if __name__ == "__main__":
    run_and_exit(main)
