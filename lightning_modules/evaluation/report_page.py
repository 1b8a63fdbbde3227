"""Writes a report as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NUM_SHOWN = 50  # samples that are listed as left out
_NOTE = (
    "Share of right answers [interval of 95 %] (number of questions). The interval takes questions for independent; "
    "questions about one video are not quite, so it is too narrow where videos have several."
)
_GROUPS = {"by_source": "source", "by_seconds": "length in seconds", "by_turn": "turn of the conversation"}


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown.

    First what was evaluated, then the measures of all questions, then a table with a row a length and a column a
    category, tables of sources, seconds and turns if there are several, and what was left out.

    Args:
        report: What ``build_report`` gives, or a version before it gave.
    """
    lines = ["# Accuracy", "", *(f"- {name}: {_plain(value)}" for name, value in report["evaluated"].items()), ""]
    lines += [*_table(["measure", "value", "questions"], _measures(report)), "", _NOTE, ""]
    categories = list(report["by_category"])
    rows = [
        [
            length,
            accuracy_cell(entry),
            *(accuracy_cell(report["by_length_and_category"][length].get(name)) for name in categories),
        ]
        for length, entry in report["by_length"].items()
    ]
    of_category = [accuracy_cell(report["by_category"][name]) for name in categories]
    rows.append(["all", accuracy_cell(report["accuracy"]), *of_category])
    lines += [*_table(["length", "all categories", *categories], rows), ""]
    for name, label in _GROUPS.items():
        groups = report.get(name, {})
        if len(groups) > 1:
            lines += [*_table([label, "accuracy"], [[each, accuracy_cell(groups[each])] for each in groups]), ""]
    return "\n".join([*lines, *_skipped_lines(report["skipped"])])


def accuracy_cell(entry: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval and the number of questions; ``-`` for None."""
    if entry is None:
        return "-"
    return f"{share_with_interval(entry)} ({entry['questions']})"


def share_with_interval(entry: Mapping[str, Any]) -> str:
    """An accuracy with its interval, or with its standard error if an earlier version wrote the report."""
    if "low" in entry:
        return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['value']:.3f} ± {entry['standard_error']:.3f}"


def table_line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from map(table_line, [header, ["---"] * len(header), *rows])


def _measures(report: Mapping[str, Any]) -> list[list[str]]:
    """A row for each measure of all questions together."""
    rows = [["exact answers", share_with_interval(report["accuracy"]), str(report["accuracy"]["questions"])]]
    options, f1, loss = (report.get(name) for name in ("options", "f1", "loss"))
    if options:
        name = f"most likely option is right (chance {options['chance']:.3f})"
        rows.append([name, share_with_interval(options), str(options["questions"])])
    if f1:
        rows.append(["F1 of the words of open answers", f"{f1['value']:.3f}", str(f1["questions"])])
    if loss:
        name = f"loss a token of the reference answers (perplexity {loss['perplexity']:.4g})"
        rows.append([name, f"{loss['value']:.4f}", str(loss["questions"])])
    return rows


def _skipped_lines(skipped: Mapping[str, Any]) -> Iterator[str]:
    if not skipped["samples"]:
        return
    counts = ", ".join(f"{kind}: {count}" for kind, count in skipped["by_kind"].items())
    yield from ("## Left out", "", f"Samples that could not be evaluated: {skipped['samples']} ({counts}).")
    yield from ("Their questions count neither as right nor as wrong.", "")
    yield from (table_line(["key", "file", "kind", "reason"]), table_line(["---"] * 4))
    for sample in skipped["which"][:_NUM_SHOWN]:
        reason = " ".join(sample["reason"].split())
        yield table_line([sample["key"], sample.get("media") or sample["shard"], sample["kind"], reason])
    if skipped["samples"] > _NUM_SHOWN:
        yield from ("", f"The other {skipped['samples'] - _NUM_SHOWN} are in report.json.")
    yield ""


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
