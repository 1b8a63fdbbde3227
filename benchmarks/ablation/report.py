"""Writes the tables of a sweep into the results page, and draws its plot."""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from apps.commands import ROOT
from benchmarks.ablation.drawing import draw, save_small
from benchmarks.ablation.results import ArmResult, Figure, Results, Tested, collect_results
from benchmarks.ablation.runs import Run
from benchmarks.results_page import replace_section, replace_summary, table

_TITLES = {
    "needle": "One needle: which colour, which shape, beginning or end (or none shown)",
    "order": "Two needles: which colour came first",
    "count": "None to three needles: how many",
}


def write_report(runs: Sequence[Run], results_page: Path, picture: Path) -> str:
    """Write tables and plot of all finished runs.

    Args:
        runs: All runs of one sweep.
        results_page: Markdown file; the part between the sweep's two marks is replaced, or put at the end.
        picture: PNG file to write.

    Returns:
        The section.

    Raises:
        ValueError: No run is finished, the runs cannot be compared, or the page has one mark without the other.
    """
    results = collect_results(runs)
    sweep = results.sweep
    link = os.path.relpath(picture, results_page.parent)
    section = describe(results, link)
    page = results_page.read_text(encoding="utf-8") if results_page.exists() else ""
    replaced = replace_section(page, f"ablation, {sweep.file.stem}", section)
    anchor = "".join(each for each in sweep.heading.lower().replace(" ", "-") if each.isalnum() or each in "-_")
    made = str(date.fromtimestamp(results.finished))
    replaced = replace_summary(replaced, anchor, figure=headline(results), device=_devices(results), made=made)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_small(draw(results), picture)
    results_page.write_text(replaced, encoding="utf-8")
    return section


def describe(results: Results, picture: str) -> str:
    """The section of the results page, without its marks.

    Args:
        results: What to show.
        picture: Link to the plot.
    """
    sweep = results.sweep
    longest = results.lengths[-1]
    file = sweep.file.relative_to(ROOT) if sweep.file.is_relative_to(ROOT) else sweep.file.name
    lines = [
        f"## {sweep.heading}",
        "",
        f"`python -m benchmarks.ablation -c {file}` ({_devices(results)}; {date.fromtimestamp(results.finished)}).",
        f"Every arm was trained through the language model for {sweep.steps} steps, on the same cached features in the",
        "same order. Accuracy of exact answers ± standard error "
        + ("over seeds." if _most_seeds(results) > 1 else "over questions, clustered by video."),
        "",
        f"![Accuracy of every arm by length of the video]({picture})",
        "",
    ]
    for task in results.questions:
        lines += [*_accuracy_table(results, task, {name: arm.accuracy for name, arm in results.arms.items()}), ""]
    fresh = {name: arm.fresh for name, arm in results.arms.items() if arm.fresh}
    for task in results.questions if fresh else ():
        lines += ["On new held-out videos. " + _accuracy_table(results, task, fresh)[0]]
        lines += [*_accuracy_table(results, task, fresh)[1:], ""]
    lines += [*_tests(results, longest), "", *_costs(results), "", *_ranks(results), *_not_run(results)]
    return "\n".join(lines).rstrip()


def headline(results: Results) -> str:
    """The main figures, for the table at the top of the results page: the best arms on the longest videos."""
    longest, shown = results.lengths[-1], []
    for task in results.questions:
        of_task = {name: arm.accuracy[task][longest].mean for name, arm in results.arms.items()}
        best = sorted(of_task, key=lambda name: -of_task[name])[:4]
        reference = results.sweep.reference
        named = best if reference in best or reference not in of_task else [*best[:3], reference]
        shown.append(f"{task} at {longest}: " + ", ".join(f"{name} {of_task[name]:.3f}" for name in named))
    return "; ".join(shown)


def _accuracy_table(results: Results, task: str, accuracy: dict[str, dict[str, dict[str, Figure]]]) -> list[str]:
    longest = results.lengths[-1]
    asked = ["questions a seed", "", "", "", "", ""]
    asked += [str(results.questions[task].get(length, "-")) for length in results.lengths]
    rows = []
    for name, of_arm in accuracy.items():
        arm = results.arms[name]
        cells = [_cell(of_arm.get(task, {}).get(length)) for length in results.lengths]
        rows.append([name, str(len(arm.seeds)), str(results.sweep.steps), *_longest_costs(results, arm), *cells])
    header = ["arm", "seeds", "steps", f"frames at {longest}", f"tokens at {longest}", f"KiB at {longest}"]
    return [f"{_TITLES.get(task, task)}:", "", *table([*header, *results.lengths], [asked, *rows])]


def _longest_costs(results: Results, arm: ArmResult) -> list[str]:
    """Encoded frames, visual tokens and stored KiB of the longest videos; a star where they exceed the budget."""
    costs = arm.by_length.get(results.lengths[-1])
    if costs is None:
        return ["-", "-", "-"]
    budget, kib = results.sweep.budget, costs["state_bytes"] / 1024
    more_tokens = budget.visual_tokens is not None and costs["visual_tokens"] > budget.visual_tokens
    more_bytes = budget.state_kib is not None and kib > budget.state_kib
    tokens = f"{costs['visual_tokens']:.0f}{'*' if more_tokens else ''}"
    return [f"{costs['frames']:.0f}", tokens, f"{kib:.0f}{'*' if more_bytes else ''}"]


def _tests(results: Results, longest: str) -> list[str]:
    rows = [
        [name, *_tested(arm.all_lengths), *_tested(arm.longest)]
        for name, arm in results.arms.items()
        if arm.all_lengths is not None
    ]
    if not rows:
        return [f"The reference, {results.sweep.reference}, is not finished, so nothing was tested against it."]
    header = ["arm", "all lengths", "95 %", "p", longest, "95 %", "p"]
    return [
        f"Accuracy of each arm less that of {results.sweep.reference}, on the same questions: paired bootstrap over",
        "videos, McNemar's exact test, p corrected by Holm's method over the arms (one seed):",
        "",
        *table(header, rows),
    ]


def _tested(tested: Tested | None) -> list[str]:
    if tested is None:
        return ["-", "-", "-"]
    low, high = tested.interval
    p_value = "-" if tested.p_value is None else "< 0.001" if tested.p_value < 0.001 else f"{tested.p_value:.3f}"
    return [f"{tested.difference:+.3f}", f"{low:+.3f} to {high:+.3f}", p_value]


def _costs(results: Results) -> list[str]:
    budget = results.sweep.budget
    bounds = [
        f"{value} {what}" for value, what in ((budget.visual_tokens, "tokens"), (budget.state_kib, "KiB")) if value
    ]
    rows = []
    for name, arm in results.arms.items():
        if arm.by_length:
            by_length = [arm.by_length[length] for length in results.lengths]
            tokens = [f"{each['visual_tokens']:.0f} / {each['state_bytes'] / 1024:.0f}" for each in by_length]
            rows.append([name, *tokens, f"{by_length[-1]['seconds'] * 1000:.0f}", f"{arm.peak_mib:.0f}"])
    if not rows:
        return ["Costs were not measured (`--only measure`)."]
    header = ["arm", *results.lengths, f"ms a video at {results.lengths[-1]}", "peak MiB"]
    return [
        "Visual tokens that the language model sees of a video / KiB of the state after its last segment and `prune`,",
        "mean over held-out videos; median time to read cached features and answer one question; largest memory of the",
        "process that measures, which holds the program itself too. One thread, one arm after the other."
        + (f" A star in the tables above: more than {' or '.join(bounds)}." if bounds else ""),
        "",
        *table(header, rows),
    ]


def _ranks(results: Results) -> list[str]:
    rows = [
        [
            name,
            str(arm.num_memory),
            *(f"{arm.rank[length]:.1f}" if length in arm.rank else "-" for length in results.lengths),
        ]
        for name, arm in results.arms.items()
        if arm.rank
    ]
    if not rows:
        return []
    return [
        "Effective rank of the memory tokens after the last segment (exponential of the entropy of their normalised",
        "squared singular values):",
        "",
        *table(["arm", "memory tokens", *results.lengths], rows),
        "",
    ]


def _not_run(results: Results) -> list[str]:
    sweep = results.sweep
    missing = [name for name in sweep.arms if name not in results.arms]
    lines = [f"Not run yet: {', '.join(missing)}."] if missing else []
    lines += [f"Not on this task: {name} ({reason})." for name, reason in sweep.left_out.items()]
    made = [
        f"{name}: " + (", ".join(f"`{config}`" for config in arm.configs) or "the configs of the sweep alone")
        for name, arm in sweep.arms.items()
        if name in results.arms
    ]
    return [*lines, "", f"The arms are made by {'; '.join(made)}; with the settings in the sweep's file."]


def _most_seeds(results: Results) -> int:
    return max(len(arm.seeds) for arm in results.arms.values())


def _devices(results: Results) -> str:
    return f"{', '.join(results.devices)}; one thread a run"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.mean:.3f}" + ("" if figure.error is None else f" ± {figure.error:.3f}")
