"""The settings of a conversion: annotations, output folder, part and options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.convert.reencode_video import Reencoding
from datamodules.convert.row_problems import ConversionError
from datamodules.convert.sources import Annotation


class Part(NamedTuple):
    """One of several jobs that convert disjoint parts of the same annotations."""

    number: int = 1  # from 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``i/n``.

        Raises:
            ConversionError: It has another form, or i is not from 1 to n.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConversionError(f"--part {text!r}: expected i/n with i from 1 to n, such as 3/16")
        return cls(int(number), int(of))

    def holds(self, digest: bytes) -> bool:
        """Whether a sample belongs to this part; all rows of a sample are in the same part."""
        return int.from_bytes(digest[:8]) % self.of == self.number - 1


class Conversion(NamedTuple):
    """What to convert, and how.

    Attributes:
        annotations: Files of rows.
        out: Folder of shards and report.
        name: Start of their names.
        part: Which of the disjoint parts.
        probe: Whether media are opened and measured.
        reencoding: Size of stored media; None = as they are.
        max_samples: Samples of a shard.
        max_bytes: A shard that has reached this size is closed.
        num_workers: Processes that check and reencode media; the result does not depend on it.
        stripped: Prefixes that are removed from the paths of media.
    """

    annotations: Sequence[Annotation]
    out: Path
    name: str
    part: Part = Part()
    probe: bool = True
    reencoding: Reencoding | None = None
    max_samples: int = 10_000
    max_bytes: int = 1 << 30
    num_workers: int = 0
    stripped: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Start of the names of this part's files."""
        part = "" if self.part.of == 1 else f"-part{self.part.number}-of-{self.part.of}"
        return f"{self.name}{part}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides the shards' bytes, except the media."""
        return {
            "annotations": [
                [one.label, str(one.path.resolve()), *_stamp(one.path), str(one.sampling), one.category]
                for one in self.annotations
            ],
            "media roots": [one.folders for one in self.annotations],
            "part": self.part,
            "probe": self.probe,
            "reencode": self.reencoding,
            "max_samples": self.max_samples,
            "max_bytes": self.max_bytes,
            # Only if there are any: plans of earlier versions do not have them.
            **({"stripped prefixes": self.stripped} if self.stripped else {}),
        }


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConversionError(f"{path} cannot be read ({error.strerror}); check the path") from error
    return status.st_size, status.st_mtime_ns
