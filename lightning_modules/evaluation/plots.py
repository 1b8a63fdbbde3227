"""Plots of accuracies. Drawn on matplotlib figures directly, without pyplot's global state."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure


def draw_accuracies(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Plot accuracy over the length of video with error bars of the 95 % interval.

    Args:
        arms: Name of every line -> length -> entry with ``value``, ``low`` and ``high``, as reports have them (earlier
            ones have ``standard_error``, which is drawn then). Lengths are drawn in the order in which they come; a
            single line needs no name.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axis = figure.subplots()
    lengths = list(dict.fromkeys(length for accuracies in arms.values() for length in accuracies))
    for name, accuracies in arms.items():
        positions = [lengths.index(length) for length in accuracies]
        values = [entry["value"] for entry in accuracies.values()]
        errors = list(zip(*map(_error_bar, accuracies.values()), strict=True))
        axis.errorbar(positions, values, yerr=errors or None, marker="o", capsize=3, label=name or None)
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("length of video")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)
    if any(arms):
        axis.legend()
    return figure


def _error_bar(entry: Mapping[str, Any]) -> tuple[float, float]:
    """How far the bar reaches below and above the value."""
    if "low" not in entry:
        return entry["standard_error"], entry["standard_error"]
    return max(0.0, entry["value"] - entry["low"]), max(0.0, entry["high"] - entry["value"])
