"""What the tests of the converter share: annotations and media to convert, and what a shard then holds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.convert.__main__ import main
from datamodules.convert.rows import Row
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import RawSample, ShardReader
from tests.fixtures_data import make_clip, make_image

CLIP = make_clip(8)
PICTURE = make_image(form="jpeg")


def write_json(path: Path, document: Any) -> Path:
    """Write a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_media(root: Path, *names: str) -> Path:
    """Write a clip or, where the ending tells so, a picture under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(media_bytes(name))
    return root


def media_bytes(name: str) -> bytes:
    """A picture if the name ends in jpg or jpeg, otherwise a clip."""
    return PICTURE if name.lower().endswith((".jpg", ".jpeg")) else CLIP


def llava_item(question: str = "what ?", answer: str = "a star", **fields: Any) -> dict[str, Any]:
    """A row of LLaVA's form with one question."""
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **fields}


def part(row: Row) -> tuple[int | None, int | None]:
    """Start and end of the one medium of a row."""
    (medium,) = row.media
    return medium.start_ms, medium.end_ms


def convert(*args: object, status: int = 0) -> None:
    """Run the command line in this process and check its exit status."""
    assert main([str(arg) for arg in [*args, "--workers", "0"]]) == status


def read_samples(out: Path, pattern: str = "*.tar") -> list[RawSample]:
    """All samples of a folder's shards."""
    reader = ShardReader([load_index(path) for path in find_shards(str(out / pattern))])
    return [reader.read(index) for index in range(len(reader))]


def said(sample: RawSample) -> list[list[str]]:
    """What is said in each conversation of a sample."""
    return [[turn.content for turn in conversation.turns] for conversation in sample.record.conversations]


def shard_bytes(out: Path) -> dict[str, bytes]:
    """Every shard's bytes, by its name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def report(out: Path, name: str = "llava") -> Any:
    """The report beside the shards."""
    return json.loads((out / f"{name}.report.json").read_text())


def left_out(out: Path, name: str = "llava") -> list[tuple[int, str]]:
    """Number and reason of every row that was left out."""
    lines = (out / f"{name}.left_out.jsonl").read_text().splitlines()
    return [(entry["row"], entry["reason"]) for entry in map(json.loads, lines)]


def many_clips(folder: Path, count: int, sizes: Sequence[int] = (8,)) -> Path:
    """Annotations ``rows.json`` about so many clips beside them, each asked about twice; ``sizes`` are frames."""
    rows = []
    clips = {size: make_clip(size) for size in set(sizes)}
    for number in range(count):
        name = f"clips/{number:03d}.mp4"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clips[sizes[number % len(sizes)]])
        rows.append(llava_item(f"what {number} ?", video=name))
    return write_json(folder / "rows.json", rows + rows)
