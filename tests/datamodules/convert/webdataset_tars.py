"""Makes WebDataset tars of another project, and converts them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shard_reader import RawSample
from tests.datamodules.convert.conversions import (
    PICTURE,
    convert,
    llava_item,
    read_samples,
)
from tests.fixtures_data import write_members

FRAMES = np.arange(6 * 16 * 24 * 3, dtype=np.uint32).astype(np.uint8).reshape(6, 16, 24, 3)


def in_json(document: object) -> bytes:
    return json.dumps(document).encode()


def npy(frames: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


def one(name: str, media: bytes = PICTURE, **fields: Any) -> list[tuple[str, bytes]]:
    """The members of a good sample."""
    return [(name, media), (f"{name.partition('.')[0]}.json", in_json(llava_item(**fields)))]


def convert_tar(
    folder: Path, members: Sequence[tuple[str, bytes]], *options: object, status: int = 0
) -> list[RawSample]:
    write_members(folder / "set-000.tar", members)
    convert("webdataset", folder / "set-000.tar", folder / "out", *options, status=status)
    return read_samples(folder / "out") if list((folder / "out").glob("*.tar")) else []


def messages(out: Path) -> str:
    return (out / "webdataset.left_out.jsonl").read_text()
