"""Writes the study's tables into the results page, and draws its plot."""

import io
import os
from datetime import date
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.memory_study.arms import ARMS
from benchmarks.memory_study.data import FRESH_SEED
from benchmarks.memory_study.results import Costs, OverSeeds, Results, collect_results, finished_runs
from benchmarks.memory_study.studies import ALL_TASKS, Study
from benchmarks.results_page import replace_section, replace_summary, table

_TITLES = {
    "needle": "One needle: which colour, which shape, beginning or end (or none shown)",
    "order": "Two needles: which colour came first",
    "count": "None to three needles: how many",
}


def write_report(folder: Path, results_page: Path, picture: Path, study: Study = ALL_TASKS) -> str:
    """Write tables and plot of all finished runs.

    Args:
        folder: Folder of the study.
        results_page: Markdown file; the part between the study's two marks is replaced, or put at the end.
        picture: PNG file to write.
        study: Which study it is.

    Returns:
        The section.

    Raises:
        ValueError: No run is finished, the runs cannot be compared, or the page has one mark without the other.
    """
    runs = finished_runs(folder)
    results = collect_results(runs)
    finished = date.fromtimestamp(max(run.rank.stat().st_mtime for run in runs))
    link = os.path.relpath(picture, results_page.parent)
    section = describe(results, finished, link, study)
    page = results_page.read_text(encoding="utf-8") if results_page.exists() else ""
    replaced = replace_section(page, study.section, section)
    device = f"{_devices(results)}; one thread a run"
    replaced = replace_summary(
        replaced, study.anchor, figure=headline(results, study), device=device, made=str(finished)
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_small(draw(results), picture)
    results_page.write_text(replaced, encoding="utf-8")
    return section


def save_small(figure: Figure, picture: Path) -> None:
    """Save a plot as a PNG with a palette: a few colours, a fifth of the bytes, every time the same."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(64).save(picture, optimize=True)


def describe(results: Results, finished: date, picture: str, study: Study = ALL_TASKS) -> str:
    """The section of the results page, without its marks.

    Args:
        results: What to show.
        finished: When the last run was finished.
        picture: Link to the plot.
        study: Which study it is.
    """
    devices, steps = _devices(results), results.settings[0]["steps"]
    names = ("prepare", "train", "costs", "report") if results.most_costs else ("prepare", "train", "report")
    *before, last = (f"`{name}{study.option}`" for name in names)
    commands = f"{', '.join(before)} and {last}".replace("`", "`python -m benchmarks.memory_study ", 1)
    lines = [
        f"## {study.heading}",
        "",
        f"{commands} ({devices}; one thread a run; {finished}).",
        f"Every arm was trained through the language model on {study.tasks} for {steps} steps, on 4 to 16",
        "frames (1x). Exact answers, mean over seeds ± standard error over seeds.",
        "",
        f"![Accuracy by length of the video]({picture})",
        "",
    ]
    for task, of_task in results.accuracy.items():
        questions = [
            "questions a seed",
            "",
            *(str(results.questions[task].get(length, "-")) for length in results.lengths),
        ]
        rows = [
            [arm, str(len(results.seeds[arm])), *(_cell(by_length.get(length), 3) for length in results.lengths)]
            for arm, by_length in of_task.items()
        ]
        lines += [f"{_TITLES[task]}:", "", *table(["arm", "seeds", *results.lengths], [questions, *rows]), ""]
    ranks = [
        [arm, str(results.num_memory.get(arm, "-")), *(_cell(by_length.get(length), 1) for length in results.lengths)]
        for arm, by_length in results.rank.items()
    ]
    lines += [
        "Effective rank of the memory tokens after the last segment (exponential of the entropy of their normalised",
        "squared singular values), mean over the held-out videos of one needle and over seeds:",
        "",
        *table(["arm", "memory tokens", *results.lengths], ranks),
        "",
        *_describe_costs(results),
        *_describe_fresh(results),
        "The arms are the quickstart's bridge with these changes: "
        + "; ".join(f"{arm}: {_configs(arm)}" for arm in results.seeds)
        + ".",
    ]
    return "\n".join(lines)


def headline(results: Results, study: Study = ALL_TASKS) -> str:
    """The main figures, for the table at the top of the results page: the arms to compare, on the longest videos."""
    longest, shown = results.lengths[-1], []
    for arm in (each for each in study.compared if each in results.seeds):
        cells = [of_task[arm].get(longest) for of_task in results.accuracy.values()]
        shown.append(f"{arm} " + " / ".join("-" if cell is None else f"{cell.mean:.3f}" for cell in cells))
    return ", ".join(shown)


def _devices(results: Results) -> str:
    return ", ".join(sorted({settings["device"] for settings in results.settings}))


def _describe_costs(results: Results) -> list[str]:
    shown = {arm: ("measured", by_length) for arm, by_length in results.costs.items()}
    shown = {arm: ("at most", by_length) for arm, by_length in results.most_costs.items()} | shown
    if not shown:
        return []
    rows = [
        [arm, how, *(_cost_cell(by_length.get(length)) for length in results.lengths)]
        for arm, (how, by_length) in shown.items()
    ]
    return [
        "Visual tokens that the language model sees of a video / KiB of the state after its last segment and `prune`.",
        "*Measured*: mean over the held-out videos of one needle and over seeds. *At most*: the arm is not trained and",
        "its gate, if it has one, admits all segments.",
        "",
        *table(["arm", "how", *results.lengths], rows),
        "",
    ]


def _cost_cell(costs: Costs | None) -> str:
    return "-" if costs is None else f"{costs.visual_tokens.mean:.0f} / {costs.state_bytes.mean / 1024:.0f}"


def _describe_fresh(results: Results) -> list[str]:
    if not results.fresh:
        return []
    asked = [
        ["questions a seed", task, "", *(str(by_length.get(length, "-")) for length in results.lengths)]
        for task, by_length in results.fresh_questions.items()
    ]
    rows = [
        [arm, task, str(results.fresh_seeds[arm]), *(_cell(by_length.get(length), 3) for length in results.lengths)]
        for arm, by_task in results.fresh.items()
        for task, by_length in by_task.items()
    ]
    return [
        f"The same runs on other held-out videos, of seed {FRESH_SEED} (`python -m benchmarks.memory_study fresh`):",
        "",
        *table(["arm", "task", "seeds", *results.lengths], [*asked, *rows]),
        "",
    ]


def draw(results: Results) -> Figure:
    """Accuracy by length: one panel a task, one line an arm, a band of one standard error over seeds.

    Args:
        results: What to show.
    """
    figure = Figure(figsize=(4.2 * len(results.accuracy), 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results.accuracy), sharey=True, squeeze=False)[0]
    for panel, (task, of_task) in zip(panels, results.accuracy.items(), strict=True):
        for arm, by_length in of_task.items():
            ticks = [results.lengths.index(length) for length in by_length]
            means = [entry.mean for entry in by_length.values()]
            errors = [entry.standard_error or 0.0 for entry in by_length.values()]
            (line,) = panel.plot(ticks, means, marker="o", markersize=4, label=arm.replace("_", " "))
            low = [mean - error for mean, error in zip(means, errors, strict=True)]
            high = [mean + error for mean, error in zip(means, errors, strict=True)]
            panel.fill_between(ticks, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set_title(task)
        panel.set_xticks(range(len(results.lengths)), results.lengths)
        panel.set_xlabel("length of video")
        panel.set_ylim(0, 1.02)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    figure.legend(handles=panels[0].lines, loc="outside lower center", ncols=len(panels[0].lines), frameon=False)
    return figure


def _cell(entry: OverSeeds | None, digits: int) -> str:
    if entry is None:
        return "-"
    if entry.standard_error is None:
        return f"{entry.mean:.{digits}f}"
    return f"{entry.mean:.{digits}f} ± {entry.standard_error:.{digits}f}"


def _configs(arm: str) -> str:
    return ", ".join(f"`{config}`" for config in ARMS[arm]) or "none"
