"""What happens to samples that are wrong, and the list of those that were left out.

The list is a file of JSON lines, one a sample, shared by all processes of a run and read again when it is resumed::

    {"shard": "data/train-000.tar", "key": "clips/000123", "kind": "timeout", "position": 5121, "reason": "..."}

``kind`` is ``sample`` (its JSON or conversations), ``media`` (undecodable), ``size`` (too many pixels or too much
memory), ``timeout`` or ``crash`` (the decoder had to be killed, or took its process down).

A sample that is wrong in itself is found wrong again each time, at little cost. A time-out costs minutes, a crash may
be chance; so these two are a quarantine: from the listed position of the training stream on the sample is left out
untried. A run that was killed and resumed therefore leaves out exactly what the uninterrupted one did, also where a
decoder hung but once. To try a sample again, remove its line.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.errors import CrashedDecoderError, QuarantinedError, SampleError, StuckDecoderError

_log = logging.getLogger(__name__)

_QUARANTINE = {StuckDecoderError.kind, CrashedDecoderError.kind}


@dataclass(frozen=True)
class FailurePolicy:
    """What happens to a sample that is wrong or whose media is broken.

    Args:
        on_error: ``raise`` ends the run. ``skip`` leaves the sample out: its batch gets smaller, no other sample takes
            its place.
        skipped_file: Where ``skip`` lists the samples that it left out.

    Raises:
        ValueError: ``skip`` has no file to list its samples in.
    """

    on_error: Literal["raise", "skip"] = "raise"
    skipped_file: str | None = None

    def __post_init__(self) -> None:
        if self.on_error == "skip" and self.skipped_file is None:
            raise ValueError("on_error 'skip' needs skipped_file, the file that lists the skipped samples")

    def skipped_samples(self) -> "SkippedSamples | None":
        """The list of what was left out; None where nothing may be."""
        if self.on_error == "raise" or self.skipped_file is None:
            return None
        return SkippedSamples(Path(self.skipped_file))


class SkippedSamples:
    """The list of the samples that were left out. Any number of processes may read and extend it at once.

    Args:
        path: The list's file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kinds: dict[tuple[str, str], str] = {}
        self._quarantined_from: dict[tuple[str, str], int] = {}
        self._num_read = 0  # bytes of the file

    def __len__(self) -> int:
        self._read_news()
        return len(self._kinds)

    def counts(self) -> dict[str, int]:
        """How many samples were left out for each kind of reason, over all processes, this run and earlier ones."""
        self._read_news()
        return dict(Counter(self._kinds.values()))

    def check(self, shard: str, key: str, position: int) -> None:
        """Refuse a sample in quarantine.

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

    def add(self, shard: str, key: str, position: int, error: SampleError) -> None:
        """List a sample that was left out, unless it is listed.

        Args:
            shard: Path of the sample's shard.
            key: The sample's key.
            position: Of the draw in the training stream.
            error: Why it was left out.
        """
        self._read_news()
        if error.kind in _QUARANTINE:
            is_listed = self._quarantined_from.get((shard, key), position + 1) <= position
        else:
            is_listed = (shard, key) in self._kinds
        if is_listed or isinstance(error, QuarantinedError):
            return
        line = {"shard": shard, "key": key, "kind": error.kind, "position": position, "reason": str(error)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:  # one short append: lines of several processes do not mix
            file.write(json.dumps(line) + "\n")
        _log.warning("sample left out, %d so far: %s", len(self), error)

    def _read_news(self) -> None:
        try:
            if self.path.stat().st_size == self._num_read:
                return
            with self.path.open("rb") as file:
                file.seek(self._num_read)
                news = file.read()
        except FileNotFoundError:
            return
        whole = news[: news.rfind(b"\n") + 1]  # another process may be writing the last line
        self._num_read += len(whole)
        for text in whole.splitlines():
            self._take(text)

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            sample, kind, position = (line["shard"], line["key"]), line["kind"], line["position"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no list of skipped samples ({error}: {text[:80]!r}); move it") from error
        self._kinds[sample] = kind
        if kind in _QUARANTINE:
            self._quarantined_from[sample] = min(position, self._quarantined_from.get(sample, position))
