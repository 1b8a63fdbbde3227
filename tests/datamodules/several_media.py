"""Shards whose samples have several media."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.shards.shard_writer import ShardWriter
from tests.fixtures_data import make_record

Several = tuple[str, dict[str, Any], Sequence[tuple[bytes, str]]]
"""Key, JSON record, bytes and ending of every medium."""


def record_of(*questions: str, **extra: Any) -> dict[str, Any]:
    """A record with one conversation for every question, which holds its own marks; ``extra`` such as ``media``."""
    return make_record([(question, "red") for question in questions], media=False) | extra


def write_several(path: Path, samples: Sequence[Several]) -> Path:
    """Write samples as one shard of this name."""
    with ShardWriter(path.with_suffix("")) as writer:
        for key, record, media in samples:
            writer.write_several(key, record, media)
    return writer.paths[0].replace(path)
