"""Plots of accuracies. Drawn on matplotlib figures directly, without pyplot's global state."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure


def draw_accuracies(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Plot accuracy over the length of video with error bars of one standard error.

    Args:
        arms: Name of every line -> length -> entry with ``value`` and ``standard_error``, as reports have them. Lengths
            are drawn in the order in which they come; a single line needs no name.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axis = figure.subplots()
    lengths = list(dict.fromkeys(length for accuracies in arms.values() for length in accuracies))
    for name, accuracies in arms.items():
        positions = [lengths.index(length) for length in accuracies]
        values = [entry["value"] for entry in accuracies.values()]
        errors = [entry["standard_error"] for entry in accuracies.values()]
        axis.errorbar(positions, values, yerr=errors, marker="o", capsize=3, label=name or None)
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("length of video")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)
    if any(arms):
        axis.legend()
    return figure
