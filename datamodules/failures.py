"""Decides what happens to wrong samples, and lists those that were left out.

The list is a file of JSON lines, one a sample. All processes of a run share it, and a resumed run reads it again::

    {"shard": "data/train-000.tar", "key": "clips/000123", "kind": "timeout", "position": 5121, "reason": "...",
     "media": "clips/cat.mp4"}

``media`` is the file that the sample was made from, if its shard names one. ``kind`` is the kind of error: ``sample``
(its JSON), ``conversation`` (the chat template refuses it), ``length`` (too many tokens), ``media`` (not decodable),
``size`` (too many pixels or too much memory), ``timeout`` (the decoder was killed) or ``crash`` (it crashed).

A sample with wrong content fails again each time, at little cost. A timeout costs minutes and a crash may be chance, so
after these two the sample is in quarantine: from the listed position of the training stream on it is left out without
a try. So a resumed run leaves out exactly what an uninterrupted run leaves out, even if a decoder hung only once. To
try a sample again, remove its line.

The number of samples left out is limited, for each process and data set. If too many are left out in a row, or of the
last 500, the run ends with an error, because it would use other data than configured.

Validation, test and predict never end at one wrong sample. It is left out whatever ``on_error`` says, listed in a file
in the run's folder, and counts neither as right nor as wrong.
"""

import json
import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.errors import (
    CrashedDecoderError,
    QuarantinedError,
    SampleError,
    StuckDecoderError,
    TooManySkippedError,
)

_log = logging.getLogger(__name__)

_NUM_RECENT = 500  # samples: enough for a meaningful share, few enough to end the run early
_QUARANTINE = {StuckDecoderError.kind, CrashedDecoderError.kind}


@dataclass(frozen=True)
class FailurePolicy:
    """What happens to a sample that is wrong or whose media is broken.

    Args:
        on_error: ``raise`` ends training. ``skip`` leaves the sample out, and its batch is smaller. Evaluation always
            skips.
        skipped_file: File in which ``skip`` lists the samples that training left out.
        max_skipped_in_a_row: Most samples that one process may leave out one after the other.
        max_skipped_share: Largest share that one process may leave out of its last 500 samples, and that may be left
            out of all samples of ``validate``, ``test``, ``predict`` or ``evaluate.py``.

    Raises:
        ValueError: ``skip`` has no file for its list, or a limit is out of range.
    """

    on_error: Literal["raise", "skip"] = "raise"
    skipped_file: str | None = None
    max_skipped_in_a_row: int = 50
    max_skipped_share: float = 0.1

    def __post_init__(self) -> None:
        if self.max_skipped_in_a_row < 1 or not 0 < self.max_skipped_share <= 1:
            raise ValueError(
                f"max_skipped_in_a_row must be at least 1, and max_skipped_share above 0 and at most 1, got "
                f"{self.max_skipped_in_a_row} and {self.max_skipped_share}; to skip none set on_error to 'raise'"
            )
        if self.on_error == "skip" and self.skipped_file is None:
            raise ValueError("on_error 'skip' needs skipped_file, the file that lists the skipped samples")

    def skipped_samples(self) -> "SkippedSamples | None":
        """The list of samples left out; None if none may be."""
        if self.on_error == "raise" or self.skipped_file is None:
            return None
        return SkippedSamples(Path(self.skipped_file))

    def for_evaluation(self, skipped_file: Path) -> "FailurePolicy":
        """The same limits for an evaluation, with a list of its own."""
        return replace(self, on_error="skip", skipped_file=str(skipped_file))

    def check_share(self, kinds: Mapping[str, int], num_samples: int, listed_in: Path, setting: str) -> None:
        """Refuse an evaluation that left out too many samples. One is never too many, however few there are.

        Args:
            kinds: How many samples were left out, by kind of error.
            num_samples: All samples, those included.
            listed_in: File that lists them.
            setting: Name of the setting for ``max_skipped_share``, for the message.

        Raises:
            TooManySkippedError: More than one sample and more than ``max_skipped_share`` of all were left out.
        """
        num_skipped = sum(kinds.values())
        if num_skipped > 1 and num_skipped > self.max_skipped_share * num_samples:
            raise TooManySkippedError(
                f"{num_skipped} of {num_samples} samples were left out ({in_words(kinds)}), more than "
                f"max_skipped_share allows ({self.max_skipped_share}); the results are about the others only. All are "
                f"listed in {listed_in}. Correct the data, or raise {setting}"
            )


def in_words(kinds: Mapping[str, int]) -> str:
    """Text for messages: how many samples were left out by kind of error, the most frequent first."""
    return ", ".join(f"{count} of kind {kind!r}" for kind, count in Counter(kinds).most_common() if count)


class SkipBounds:
    """Ends the run if one process leaves too many samples out.

    Args:
        policy: Has the limits.
    """

    def __init__(self, policy: FailurePolicy) -> None:
        self._policy = policy
        self._kinds: deque[str | None] = deque(maxlen=_NUM_RECENT)  # of the last samples; None for one that was read
        self._in_a_row = 0

    def add(self, error: SampleError | None) -> None:
        """Count the next sample.

        Args:
            error: Why it was left out; None if it was read.

        Raises:
            TooManySkippedError: A limit is exceeded.
        """
        self._kinds.append(None if error is None else error.kind)
        self._in_a_row = 0 if error is None else self._in_a_row + 1
        if error is None:
            return
        kinds = Counter(kind for kind in self._kinds if kind is not None)
        if self._in_a_row > self._policy.max_skipped_in_a_row:
            what, setting = f"{self._in_a_row} samples in a row", "max_skipped_in_a_row"
        elif kinds.total() > self._policy.max_skipped_share * _NUM_RECENT:
            what, setting = f"{kinds.total()} of the last {len(self._kinds)} samples", "max_skipped_share"
        else:
            return
        allowed = getattr(self._policy, setting)
        raise TooManySkippedError(
            f"{what} were left out ({in_words(kinds)}), more than {setting} allows ({allowed}). The last: {error}. "
            f"All are listed in {self._policy.skipped_file}. Correct the data (python -m datamodules.validate --config "
            f"CONFIG finds what is wrong), or raise data.loading.failures.{setting}"
        )


class SkippedSamples:
    """The list of samples left out. Any number of processes may read and extend it at the same time.

    Args:
        path: The list's file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}
        self._quarantined_from: dict[tuple[str, str], int] = {}
        self._num_read = 0  # bytes of the file

    def __len__(self) -> int:
        self._read_news()
        return len(self._lines)

    def counts(self) -> dict[str, int]:
        """How many samples were left out by kind of error, over all processes, in this run and earlier ones."""
        self._read_news()
        return dict(Counter(line["kind"] for line in self._lines.values()))

    def lines(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The line of every sample, by shard and key; see the top of this file."""
        self._read_news()
        return dict(self._lines)

    def check(self, shard: str, key: str, position: int) -> None:
        """Refuse a sample that is in quarantine.

        Args:
            shard: Path of the sample's shard.
            key: The sample's key.
            position: Of the draw in the training stream.

        Raises:
            QuarantinedError: The sample's decoder hung or crashed at this position or an earlier one.
        """
        self._read_news()
        start = self._quarantined_from.get((shard, key))
        if start is not None and start <= position:
            raise QuarantinedError(
                f"shard {shard}, key {key!r}: its decoder hung or crashed before; remove its line from {self.path} to "
                "try it again"
            )

    def add(self, shard: str, key: str, position: int, error: SampleError, *, media: str = "") -> None:
        """List a sample that was left out, unless it is listed.

        Args:
            shard: Path of the sample's shard.
            key: The sample's key.
            position: Of the draw in the training stream.
            error: Why it was left out.
            media: The file that the sample was made from; empty if unknown.
        """
        self._read_news()
        if error.kind in _QUARANTINE:
            is_listed = self._quarantined_from.get((shard, key), position + 1) <= position
        else:
            is_listed = (shard, key) in self._lines
        if is_listed or isinstance(error, QuarantinedError):
            return
        line = {"shard": shard, "key": key, "kind": error.kind, "position": position, "reason": str(error)}
        line |= {"media": media} if media else {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open(
            "a", encoding="utf-8"
        ) as file:  # one short append, so lines of several processes do not mix
            file.write(json.dumps(line) + "\n")
        made_from = f" (made from {media})" if media else ""
        _log.warning("sample left out, %d so far, listed in %s: %s%s", len(self), self.path, error, made_from)

    def _read_news(self) -> None:
        try:
            if self.path.stat().st_size == self._num_read:
                return
            with self.path.open("rb") as file:
                file.seek(self._num_read)
                news = file.read()
        except FileNotFoundError:
            return
        complete = news[: news.rfind(b"\n") + 1]  # another process may be writing the last line
        self._num_read += len(complete)
        for text in complete.splitlines():
            self._take(text)

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            sample, kind, position = (line["shard"], line["key"]), line["kind"], line["position"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no list of skipped samples ({error}: {text[:80]!r}); move it") from error
        self._lines[sample] = line
        if kind in _QUARANTINE:
            self._quarantined_from[sample] = min(position, self._quarantined_from.get(sample, position))
