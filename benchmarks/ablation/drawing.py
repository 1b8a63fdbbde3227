"""Draws the accuracy of every arm by length."""

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.ablation.results import Results

_COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d")


def draw(results: Results) -> Figure:
    """One panel a task: a row for every arm, a point with its standard error for every length.

    Arms are ordered by their accuracy on the longest videos.
    """
    tasks = list(results.questions)
    arms, longest = list(results.arms), results.lengths[-1]
    figure = Figure(figsize=(1.8 + 5.2 * len(tasks), 1.2 + 0.26 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        ordered = sorted(arms, key=lambda name: results.arms[name].accuracy[task][longest].mean)
        for number, length in enumerate(results.lengths):
            figures = [results.arms[name].accuracy[task].get(length) for name in ordered]
            shown = [(place, each) for place, each in enumerate(figures) if each is not None]
            shift = 0.12 * (number - (len(results.lengths) - 1) / 2)
            panel.errorbar(
                [each.mean for _, each in shown],
                [place - shift for place, _ in shown],
                xerr=[each.error or 0.0 for _, each in shown],
                fmt="o",
                markersize=3.5,
                linewidth=0.9,
                color=_COLOURS[number % len(_COLOURS)],
                label=length,
            )
        panel.set_yticks(range(len(ordered)), ordered, fontsize=8)
        panel.set_xlim(0, 1.02)
        panel.set_xlabel(f"{task}: exact answers", fontsize=9)
        panel.grid(axis="x", linewidth=0.4)
    handles, lengths = panels[-1].get_legend_handles_labels()
    figure.legend(handles, lengths, title="length", fontsize=8, title_fontsize=8, loc="outside right upper")
    return figure


def save_small(figure: Figure, picture: Path) -> None:
    """Save a plot as a PNG with a palette: a few colours, a fifth of the bytes, every time the same."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(64).save(picture, optimize=True)
