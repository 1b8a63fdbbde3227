"""Right answers of the haystack test by length of the video and depth of the needle, as values and as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from components.checkpoints.atomic_folder import write_atomically
from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.item import BenchmarkItem
from datamodules.haystack.haystack_benchmark import planned_video, right_videos

_MOST_TEXTS = 20  # columns of a map whose cells show their value
_MOST_TICKS = 16


def heat_map(items: Sequence[BenchmarkItem], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Share of right videos of every cell, for every scorer and task.

    A video is right if all questions about it are. One without answer counts as wrong.

    Args:
        items: All questions.
        answers: The lines of the file of answers, by id.

    Returns:
        Plain values. ``lengths_s`` and ``depths`` are the axes. ``scorers`` -> name -> task -> ``with_needle`` has
        ``accuracy`` and ``n``, each with a row a depth and a column a length; ``no_needle`` one value a length.
        ``accuracy`` is null where ``n`` is 0.
    """
    cells = [planned_video(item).cell for item in items]
    lengths = sorted({cell.duration_ms for cell in cells})
    depths = sorted({cell.depth for cell in cells if cell.depth is not None})
    scorers: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for line in answers.values() for name in line.get("scores", ())):
        right = right_videos(scored_items(items, answers, name))
        for task in dict.fromkeys(cell.task for cell in cells):
            found: dict[tuple[float | None, int], list[float]] = {}
            for item, value in right.values():
                cell = planned_video(item).cell
                if cell.task == task:
                    found.setdefault((cell.depth, cell.duration_ms), []).append(value)
            scorers.setdefault(name, {})[task] = {
                "with_needle": _rows([[found.get((depth, length), []) for length in lengths] for depth in depths]),
                "no_needle": _row([found.get((None, length), []) for length in lengths]),
            }
    chance = {task: _chance([item for item in items if item.labels["task"] == task]) for task in _tasks(scorers)}
    return {"lengths_s": [length / 1000 for length in lengths], "depths": depths, "chance": chance, "scorers": scorers}


def scored_items(
    items: Sequence[BenchmarkItem], answers: Mapping[str, Mapping[str, Any]], scorer: str
) -> list[ScoredItem]:
    """All items with their scores; one without answer has 0.

    Args:
        items: All questions.
        answers: The lines of the file of answers, by id.
        scorer: Name of the scorer.
    """
    return [ScoredItem(item, _score(answers.get(item.id), scorer)) for item in items]


def draw_heat_map(values: Mapping[str, Any], scorer: str | None = None) -> Figure:
    """One map for each task; a separate row at the bottom is for videos without a needle.

    Args:
        values: See ``heat_map``.
        scorer: Whose scores are shown; the first by default.
    """
    scorers = values["scorers"]
    name = next(iter(scorers), "") if scorer is None else scorer
    tasks = scorers.get(name, {})
    num_lengths, num_depths = len(values["lengths_s"]), len(values["depths"])
    size = (2.6 + 0.45 * max(8, min(num_lengths, 24)), (1.6 + 0.32 * (num_depths + 1)) * max(1, len(tasks)) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(max(1, len(tasks)), 1, squeeze=False)[:, 0]
    for axis, (task, maps) in zip(axes, tasks.items(), strict=False):
        with_needle = _array(maps["with_needle"]["accuracy"]).reshape(num_depths, num_lengths)
        shown = np.concatenate([with_needle, _array(maps["no_needle"]["accuracy"])[None]])
        picture = _draw(axis, shown, values)
        mean = np.nanmean(with_needle) if np.isfinite(with_needle).any() else np.nan
        axis.set_title(f"{task}: mean {mean:.2f} with a needle, random choice {values['chance'][task]:.2f}", fontsize=9)
        figure.colorbar(picture, ax=axis, label="share right", pad=0.01)
    if tasks:
        figure.suptitle(f"Haystack test, {name}", fontsize=10)
    return figure


def write_heat_map(values: Mapping[str, Any], folder: Path) -> None:
    """Write ``heatmap.json`` and ``heatmap.png``.

    Args:
        values: See ``heat_map``.
        folder: Where to; must exist.
    """
    write_atomically(folder / "heatmap.json", json.dumps(values, indent=2) + "\n")
    draw_heat_map(values).savefig(folder / "heatmap.png", dpi=150)


def _draw(axis: Axes, shown: NDArray[np.float64], values: Mapping[str, Any]) -> Any:
    """Draw one map; its last row is set apart by a line."""
    lengths, depths = values["lengths_s"], values["depths"]
    picture = axis.imshow(shown, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axis.axhline(len(depths) - 0.5, color="black", linewidth=1.5)
    axis.set_yticks(range(len(depths) + 1), [*(f"{100 * depth:.3g} %" for depth in depths), "no needle"], fontsize=7)
    step = -(-len(lengths) // _MOST_TICKS)
    axis.set_xticks(range(0, len(lengths), step), [_length(each) for each in lengths[::step]], fontsize=7)
    axis.set_xlabel("length of the video", fontsize=8)
    axis.set_ylabel("depth of the needle", fontsize=8)
    if len(lengths) <= _MOST_TEXTS:
        for (row, column), value in np.ndenumerate(shown):
            if np.isfinite(value):
                colour = "black" if value > 0.6 else "white"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    return picture


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _tasks(scorers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(task for tasks in scorers.values() for task in tasks))


def _score(line: Mapping[str, Any] | None, scorer: str) -> float:
    value = None if line is None else line.get("scores", {}).get(scorer)
    return 0.0 if value is None else float(value)


def _rows(cells: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    rows = [_row(row) for row in cells]
    return {name: [row[name] for row in rows] for name in ("accuracy", "n")}


def _row(cells: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean and number of every list of values."""
    means = [sum(values) / len(values) if values else None for values in cells]
    return {"accuracy": means, "n": [len(values) for values in cells]}


def _array(values: Any) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _chance(items: Sequence[BenchmarkItem]) -> float:
    """Expected share of right videos of a random choice for every question; 0 for free answers."""
    groups: dict[str, float] = {}
    for item in items:
        groups[item.group] = groups.get(item.group, 1.0) * (1 / len(item.options) if item.options else 0.0)
    return sum(groups.values()) / len(groups) if groups else float("nan")
