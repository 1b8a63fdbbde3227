"""The clocks that a benchmark on a CPU can use."""

import argparse
import time
from collections.abc import Callable

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds by name."""


def add_clock_option(parser: argparse.ArgumentParser) -> None:
    """Let the command line choose one of ``CLOCKS``."""
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu = processor time of all threads; with --threads 1 other programs on the machine do not change it",
    )
