"""What a plan holds: samples to write, rows that are left out, and how much is written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from datamodules.convert.paths import NamedAs, usual_field
from datamodules.convert.row_problems import Reason


class PlannedSample(NamedTuple):
    """Media, a part of it, and what is asked about it.

    Conversations that are too many for one sample are put into several about the same media.
    """

    number: int  # of the media; shared by such samples
    piece: int  # of them, from 0
    key: str
    media: str | None  # relative path as the annotations name it; None for text only
    folders: tuple[str, ...]  # where to look for it, in this order
    start_ms: int | None
    end_ms: int | None
    source: str
    conversations: tuple[dict[str, Any], ...]
    rows: tuple[int, int]  # numbers of the first and last conversation
    named_as: NamedAs | None = None  # field that names the media; None for text only, and in plans of older versions
    frame_interval_ms: float | None = None  # of a video in an npy file


class SampleIdentity(NamedTuple):
    """Rows with equal identities share a sample."""

    media: str  # for text, what tells the row from all others
    folders: tuple[str, ...]
    start_ms: int | None = None
    end_ms: int | None = None
    named_as: NamedAs | None = None
    frame_interval_ms: float | None = None

    def digest(self, number_of_folders: Mapping[tuple[str, ...], int]) -> bytes:
        """16 bytes that are equal on every machine, wherever the folders lie there."""
        facts = [self.media, number_of_folders[self.folders], self.start_ms, self.end_ms]
        if self.named_as not in (None, usual_field(self.media)):  # the same file is then prepared in another way
            facts.append(self.named_as)
        if self.frame_interval_ms is not None:
            facts.append(self.frame_interval_ms)
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).digest()


class LeftOut(NamedTuple):
    """A row that is not written."""

    label: str  # of the annotation file
    row: int  # counted from 0; of JSON lines, empty ones do not count
    media: str | None
    reason: Reason
    message: str


class Progress(NamedTuple):
    """How far writing got."""

    next_sample: int = 1  # the first that is in no finished shard
    num_shards: int = 0
    num_samples: int = 0  # in finished shards
    finished: bool = False
    next_piece: int = 0  # of the next sample: earlier ones are in finished shards
