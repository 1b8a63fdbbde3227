"""The page: totals, what is wrong, and the samples, within a number of bytes."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from datamodules.errors import count_of
from datamodules.shards.shard_reader import ShardReader
from datamodules.validate.shard_check import Problem
from membridge.sample_page.html_text import escaped, message
from membridge.sample_page.media_html import problem_html
from membridge.sample_page.page_style import STYLE
from membridge.sample_page.sample_html import sample_html
from membridge.sample_page.shown_sample import ShownSample

# Nothing is loaded and no script runs, whatever text a shard has.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEAD_BYTES = 600_000  # for all but the samples
_MOST_LISTED, _LONGEST = 100, 300


class ShardTotals(NamedTuple):
    """What all shards hold, by their indexes."""

    shards: int
    samples: int
    conversations: int
    modalities: tuple[tuple[str, int], ...]
    wrong: int  # samples that their indexes know to be wrong

    @classmethod
    def of(cls, reader: ShardReader) -> "ShardTotals":
        """Count."""
        modalities: Counter[str] = Counter()
        conversations = wrong = 0
        for entry in reader.entries():
            modalities[entry.modality] += 1
            conversations += entry.num_conversations
            wrong += entry.problem is not None
        return cls(len(reader.shards), len(reader), conversations, tuple(modalities.most_common()), wrong)


class WrongSample(NamedTuple):
    """A sample on the page that something is wrong with."""

    anchor: str
    key: str
    problem: Problem  # the first one


class SamplePage:
    """Collects samples, and makes a page of them.

    Args:
        totals: What all shards hold.
        unreadable: Message about every shard that cannot be read.
        max_bytes: Most bytes of the page.
    """

    def __init__(self, totals: ShardTotals, unreadable: tuple[str, ...], max_bytes: int) -> None:
        self.totals = totals
        self.unreadable = unreadable
        self.is_full = False
        """Whether a sample did not fit."""
        self.wrong: list[WrongSample] = []
        self._remaining = max_bytes - _HEAD_BYTES
        self._samples: list[str] = []

    @property
    def num_samples(self) -> int:
        """Samples on the page."""
        return len(self._samples)

    def add(self, samples: Iterable[ShownSample]) -> None:
        """Add samples until the page is full."""
        for sample in samples:
            name = f"sample-{len(self._samples) + 1}"
            text = sample_html(sample, name)
            num_bytes = len(text.encode("utf-8", "replace"))
            if num_bytes > self._remaining:
                self.is_full = True
                return
            self._remaining -= num_bytes
            self._samples.append(text)
            if sample.problems:
                self.wrong.append(WrongSample(name, sample.key, sample.problems[0]))

    def html(self) -> str:
        """The complete page."""
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Samples of shards</title>\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style></head>\n<body>{self._head()}\n<main>"
            + "\n".join(self._samples)
            + "</main></body></html>\n"
        )

    def _head(self) -> str:
        totals = self.totals
        tiles = [
            (f"{totals.shards:,}", "shard" if totals.shards == 1 else "shards"),
            (f"{totals.samples:,}", "sample" if totals.samples == 1 else "samples"),
            (f"{totals.conversations:,}", "conversation" if totals.conversations == 1 else "conversations"),
            (f"{len(self._samples):,}", "on this page"),
        ]
        shown = "".join(f'<div class="tile"><b>{number}</b>{noun}</div>' for number, noun in tiles)
        bad = " bad" if self.wrong else " good"
        shown += f'<div class="tile{bad}"><b>{len(self.wrong):,}</b>of them wrong</div>'
        kinds = " · ".join(f"{count:,} {name}" for name, count in totals.modalities)
        unreadable = "".join(problem_html("not read", text[:_LONGEST]) for text in self.unreadable[:_MOST_LISTED])
        return (
            f'<header class="top"><h1>Samples of shards</h1><p class="facts">{escaped(kinds)}</p>'
            f'<div class="tiles">{shown}</div>{unreadable}{self._note()}{self._wrong()}</header>'
        )

    def _note(self) -> str:
        notes = []
        if self.is_full:
            notes.append("The page has reached its largest size, so samples were left out: see --num and --max-mb.")
        if self.totals.wrong:
            notes.append(f"The indexes list {count_of(self.totals.wrong, 'sample')} that cannot be used.")
        return f'<p class="note">{" ".join(notes)}</p>' if notes else ""

    def _wrong(self) -> str:
        if not self.wrong:
            return ""
        rows = "".join(
            f'<li><a href="#{name}">{escaped(key[:_LONGEST])}</a> <b>{escaped(problem.kind)}</b> '
            f"{message(problem.reason[:_LONGEST])}</li>"
            for name, key, problem in self.wrong[:_MOST_LISTED]
        )
        return (
            f"<details open><summary>What is wrong</summary><ul>{rows}</ul></details>"
            '<label><input type="checkbox" id="only-wrong"> show only these</label>'
        )
