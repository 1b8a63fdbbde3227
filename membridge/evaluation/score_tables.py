"""Shows the report of a benchmark: as Markdown, and as a bar chart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

_NUM_SHOWN = 50  # items without answer that the Markdown names
_MOST_BARS = 40
_NOTE = (
    "Share of right answers with its 95 % Wilson interval, ± the standard error clustered by video, and the number of "
    "questions. Answers that name no option count as wrong."
)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: what was evaluated, a table a label with a column a scorer, then what has no answer."""
    about = [f"- {name}: {_plain(value)}" for name, value in report["evaluated"].items()]
    about.append(f"- items: {report['items']}, of which {report['labelled']} have a public answer")
    if report["chance"] is not None:
        about.append(f"- a random choice is right in {report['chance']:.3f} of the questions")
    lines = ["# Scores", "", *about, "", _NOTE, ""]
    scores = report["scores"]
    if scores:
        lines += _table(["", *scores], _rows(scores))
        official = {name: of_scorer["official"] for name, of_scorer in scores.items() if of_scorer["official"]}
        if official:
            lines += ["", "## Official scores", ""]
            lines += _table(["", *official], _official_rows(official))
    lines += ["", *_without_answer(report), *_cost(report["means"])]
    return "\n".join(lines).rstrip() + "\n"


def draw_shares(report: Mapping[str, Any]) -> Figure:
    """A bar for every label and length, for the first scorer, with its interval and the line of chance."""
    scores = report["scores"]
    name, of_scorer = next(iter(scores.items()), ("", None))
    bars = [] if of_scorer is None else list(_entries(of_scorer))[:_MOST_BARS]
    figure = Figure(figsize=(7.0, 1.6 + 0.28 * max(len(bars), 1)), layout="constrained")
    axis = figure.subplots()
    for position, (_, entry) in enumerate(bars):
        if entry["value"] is None:
            continue
        low, high = entry["interval"]
        # At a share of 0 or 1 rounding may leave the share outside of its interval.
        errors = [[max(0.0, entry["value"] - low)], [max(0.0, high - entry["value"])]]
        axis.barh(position, entry["value"], color="#4477aa" if position else "#222255", height=0.7)
        axis.errorbar(entry["value"], position, xerr=errors, color="black", capsize=2, linewidth=1)
        axis.text(1.01, position, f"{entry['questions']}", va="center", fontsize=8)
    if report["chance"] is not None:
        axis.axvline(report["chance"], color="#aa3377", linestyle="--", linewidth=1, label="random choice")
        axis.legend(loc="lower right", fontsize=8)
    axis.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"share of right answers, {name}; at the right the number of questions")
    axis.grid(axis="x", alpha=0.3)
    return figure


def _entries(of_scorer: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every share of a scorer, with its label."""
    yield "all", of_scorer["overall"]
    for label, values in of_scorer["by_label"].items():
        for value, entry in values.items():
            yield f"{label}: {value}", entry
    if list(of_scorer["by_length"]) != ["unknown"]:
        for length, entry in of_scorer["by_length"].items():
            yield f"length: {length}", entry


def _rows(scores: Mapping[str, Any]) -> Iterator[list[str]]:
    found = {name: dict(_entries(of_scorer)) for name, of_scorer in scores.items()}
    for label in dict.fromkeys(label for entries in found.values() for label in entries):
        yield [label, *(_cell(entries.get(label)) for entries in found.values())]


def _official_rows(official: Mapping[str, Mapping[str, float]]) -> Iterator[list[str]]:
    for label in dict.fromkeys(label for values in official.values() for label in values):
        yield [label, *(f"{values[label]:.4f}" if label in values else "-" for values in official.values())]


def _without_answer(report: Mapping[str, Any]) -> Iterator[str]:
    missing = report["without_answer"]
    if not missing:
        return
    yield from ("## Without answer", "", f"{len(missing)} items; they count {report['without_answer_count']}.", "")
    yield from _table(
        ["id", "media", "reason"],
        ([each["id"], ", ".join(each["media"]), " ".join(each["reason"].split())] for each in missing[:_NUM_SHOWN]),
    )
    if len(missing) > _NUM_SHOWN:
        yield from ("", f"The other {len(missing) - _NUM_SHOWN} are in report.json.")
    yield ""


def _cost(means: Mapping[str, float]) -> Iterator[str]:
    if means:
        yield from ("## Means of a question", "")
        yield from _table([name.replace("_", " ") for name in means], [[f"{value:.3g}" for value in means.values()]])


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    low, high = entry["interval"]
    error = "" if entry["standard_error"] is None else f" ± {entry['standard_error']:.3f}"
    unparsed = f"; {entry['unparsed']} unparsed" if entry["unparsed"] else ""
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]{error} ({entry['questions']}{unparsed})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
