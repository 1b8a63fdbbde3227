"""Records of a plan: samples to write, rows that are left out, and the progress of writing."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from datamodules.convert.media_paths import NamedAs, usual_field
from datamodules.convert.row_problems import Reason


class PlannedSample(NamedTuple):
    """Media, or a part of it, and the conversations about it.

    If the conversations are too many for one sample, several samples (pieces) have the same media.
    """

    number: int  # the same for all pieces
    piece: int  # number of the piece, from 0
    key: str
    media: str | None  # relative path as the annotations name it; None for text only
    folders: tuple[str, ...]  # folders to search, in this order
    start_ms: int | None
    end_ms: int | None
    source: str
    conversations: tuple[dict[str, Any], ...]
    rows: tuple[int, int]  # numbers of the first and last conversation
    named_as: NamedAs | None = None  # field that names the media; None for text only, and in plans of older versions
    frame_interval_ms: float | None = None  # of a video in an npy file


class SampleIdentity(NamedTuple):
    """Rows with equal identities share a sample."""

    media: str  # for text, a name that no other row has
    folders: tuple[str, ...]
    start_ms: int | None = None
    end_ms: int | None = None
    named_as: NamedAs | None = None
    frame_interval_ms: float | None = None

    def digest(self, number_of_folders: Mapping[tuple[str, ...], int]) -> bytes:
        """Return 16 bytes that are equal on every machine, whatever the paths of its folders."""
        facts = [self.media, number_of_folders[self.folders], self.start_ms, self.end_ms]
        if self.named_as not in (None, usual_field(self.media)):  # the same file is then read in another way
            facts.append(self.named_as)
        if self.frame_interval_ms is not None:
            facts.append(self.frame_interval_ms)
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).digest()


class LeftOut(NamedTuple):
    """A row that was left out."""

    label: str  # of the annotation file
    row: int  # from 0; empty lines of JSON lines do not count
    media: str | None
    reason: Reason
    message: str


class Progress(NamedTuple):
    """What is written so far."""

    next_sample: int = 1  # the first one that is in no finished shard
    num_shards: int = 0
    num_samples: int = 0  # in finished shards
    finished: bool = False
    next_piece: int = 0  # of the next sample; earlier pieces are in finished shards
