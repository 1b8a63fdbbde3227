"""Records of a plan: samples to write, rows that are left out, and the progress of writing."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from datamodules.convert.media_paths import usual_field
from datamodules.convert.row_media import RowMedium
from datamodules.convert.row_problems import Reason


class PlannedSample(NamedTuple):
    """Media, or a part of it, and the conversations about it.

    If the conversations are too many for one sample, several samples (pieces) have the same media.
    """

    number: int  # the same for all pieces
    piece: int  # number of the piece, from 0
    key: str
    media: tuple[RowMedium, ...]  # in the order of the conversations' marks; empty for text only
    folders: tuple[str, ...]  # folders to search, in this order
    source: str
    conversations: tuple[dict[str, Any], ...]
    rows: tuple[int, int]  # numbers of the first and last conversation


class SampleIdentity(NamedTuple):
    """Rows with equal identities share a sample."""

    media: tuple[RowMedium, ...]
    folders: tuple[str, ...]
    text: str = ""  # without media: a name that no other row has

    def digest(self, number_of_folders: Mapping[tuple[str, ...], int]) -> bytes:
        """Return 16 bytes that are equal on every machine, whatever the paths of its folders."""
        folders = number_of_folders[self.folders]
        media = self.media or (RowMedium(self.text),)
        facts = [_facts(medium, folders) for medium in media]
        document = json.dumps(facts[0] if len(facts) == 1 else facts)
        return hashlib.blake2b(document.encode(), digest_size=16).digest()


def _facts(medium: RowMedium, folders: int) -> list[object]:
    facts: list[object] = [medium.path, folders, medium.start_ms, medium.end_ms]
    if medium.named_as not in (None, usual_field(medium.path)):  # the same file is then read in another way
        facts.append(medium.named_as)
    if medium.frame_interval_ms is not None:
        facts.append(medium.frame_interval_ms)
    return facts


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
