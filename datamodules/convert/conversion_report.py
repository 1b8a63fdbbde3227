"""Reports what a conversion read, wrote and left out: ``NAME.report.json``, ``NAME.left_out.jsonl`` and a table."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.convert.plan import Plan
from datamodules.errors import count_of

_NUM_EXAMPLES = 3
_NUM_NAMES = 20


class Report(NamedTuple):
    """Counts of a finished conversion."""

    num_samples: int
    num_shards: int
    rows_read: dict[str, int]  # by the annotation's label
    rows_left_out: dict[str, int]
    reasons: dict[str, int]  # rows that were left out, by reason
    examples: dict[str, list[str]]
    unread: dict[str, int]  # usable rows by the fields and marks that are not read; their media may be missing
    listed_in: Path

    @property
    def missing_rate(self) -> float:
        """Share of the rows that were left out, for any reason."""
        return sum(self.reasons.values()) / max(1, sum(self.rows_read.values()))

    def table(self) -> str:
        """The counts as text."""
        lines = [f"{'rows read':>12} {'written':>10} {'left out':>10}  annotation"]
        for label, read in self.rows_read.items():
            left_out = self.rows_left_out.get(label, 0)
            lines.append(f"{read:>12} {read - left_out:>10} {left_out:>10}  {label}")
        read, left_out = sum(self.rows_read.values()), sum(self.reasons.values())
        lines.append(f"{read:>12} {read - left_out:>10} {left_out:>10}  all")
        for reason, count in self.reasons.items():
            lines.append(f"left out, {reason}: {count_of(count, 'row')}; {self.examples[reason][0]}")
        lines += self._unread_lines()
        lines.append(f"{count_of(self.num_samples, 'sample')} in {count_of(self.num_shards, 'shard')}")
        if left_out:
            lines.append(f"every row that was left out is listed in {self.listed_in}")
        return "\n".join(lines)

    def _unread_lines(self) -> Iterator[str]:
        for what, is_mark in (("fields", False), ("marks in texts", True)):
            counts = [(name, count) for name, count in self.unread.items() if name.startswith("<") is is_mark]
            if counts:
                shown = [f"{name[:60]} {count_of(count, 'row')}" for name, count in counts[:_NUM_NAMES]]
                more = [f"and {len(counts) - _NUM_NAMES} more"] if len(counts) > _NUM_NAMES else []
                yield f"{what} not read: {', '.join(shown + more)}"


def write_conversion_report(plan: Plan, out: Path, stem: str) -> Report:
    """Write the report of a finished conversion beside its shards."""
    listed_in = out / f"{stem}.left_out.jsonl"
    rows_left_out: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    with listed_in.open("w", encoding="utf-8") as file:
        for row in plan.left_out():
            rows_left_out[row.label] += 1
            reasons[row.reason.value] += 1
            shown = examples.setdefault(row.reason.value, [])
            if len(shown) < _NUM_EXAMPLES:
                shown.append(f"{row.label}#{row.row}: {row.message}")
            file.write(json.dumps(row._asdict()) + "\n")
    progress = plan.progress()
    report = Report(
        progress.num_samples,
        progress.num_shards,
        plan.rows_read(),
        dict(rows_left_out),
        dict(reasons.most_common()),
        examples,
        dict(Counter(plan.unread()).most_common()),
        listed_in,
    )
    document = {
        "rows_read": sum(report.rows_read.values()),
        "rows_left_out": sum(reasons.values()),
        "missing_rate": report.missing_rate,
        "samples": report.num_samples,
        "shards": report.num_shards,
        "annotations": {
            label: {"rows_read": read, "rows_left_out": rows_left_out[label]}
            for label, read in report.rows_read.items()
        },
        "reasons": {reason: {"rows": n, "examples": examples[reason]} for reason, n in report.reasons.items()},
        "not_read": report.unread,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (out / f"{stem}.report.json").write_text(text + "\n", encoding="utf-8")
    return report
