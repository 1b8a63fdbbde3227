"""Options that several benchmarks have on their command lines."""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping

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


def add_numbers(parser: argparse.ArgumentParser, defaults: Mapping[str, int]) -> None:
    """Add an option with a whole number for each of these fields, such as ``--answer-words`` for ``answer_words``."""
    for field, default in defaults.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, default=default)


def numbers_in(options: argparse.Namespace, fields: Iterable[str]) -> dict[str, int]:
    """The values of the options that ``add_numbers`` added, by field."""
    return {field: getattr(options, field) for field in fields}
