"""Damaged media, shards and JSON rows: every one is read or refused by name, and counted; none stops or hangs a run.

Damage follows from the number of the case, so a case that fails can be run again alone.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from datamodules.batch import SKIPPED_KEY
from datamodules.dataset import ConversationDataset
from datamodules.errors import ShardError
from datamodules.failures import FailurePolicy
from datamodules.media.decoding import Decoding
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.order.training_order import Draw
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.datamodules.several_media import record_of
from tests.fixtures_data import make_clip, make_gif, make_image, make_record, natural_frames, write_members

Generator = np.random.Generator
Damage = Callable[[bytearray, Generator], bytes]

LONG = [pytest.mark.nightly, pytest.mark.timeout(1200)]
MEDIA_CASES = [pytest.param(range(450), id="450"), pytest.param(range(450, 2000), id="1550", marks=LONG)]
TAR_CASES = [pytest.param(range(250), id="250"), pytest.param(range(250, 800), id="550", marks=LONG)]
ROW_CASES = [pytest.param(range(400), id="400"), pytest.param(range(400, 2000), id="1600", marks=LONG)]


def flip_bits(data: bytearray, generator: Generator) -> bytes:
    for place in generator.integers(0, len(data), generator.integers(1, 20)):
        data[place] ^= 1 << generator.integers(0, 8)
    return bytes(data)


def overwrite(data: bytearray, generator: Generator) -> bytes:
    """Put an extreme number where the file may hold a size, a count or a time; most of those lie near its ends."""
    span = len(data) if generator.random() < 0.5 else min(len(data), 800)
    start = int(generator.integers(0, span)) * (1 if generator.random() < 0.5 else -1)
    number = [bytes(4), b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\x80\0\0\0", b"\0\0\0\1", b"\x10\0\0\0"]
    data[start : start + 4 or None] = number[generator.integers(0, len(number))]
    return bytes(data)


def cut_off(data: bytearray, generator: Generator) -> bytes:
    return bytes(data[: generator.integers(0, len(data))])


def lose_stretch(data: bytearray, generator: Generator) -> bytes:
    start, end = sorted(generator.integers(0, len(data), 2))
    return bytes(data[:start] + (bytes(end - start) if generator.random() < 0.5 else b"") + data[end:])


def swap_stretches(data: bytearray, generator: Generator) -> bytes:
    first, second, third = sorted(generator.integers(0, len(data), 3))
    return bytes(data[:first] + data[second:third] + data[first:second] + data[third:])


def repeat_stretch(data: bytearray, generator: Generator) -> bytes:
    start, end = sorted(generator.integers(0, len(data), 2))
    return bytes(data[:end] + data[start:end] + data[end:])


def replace_by_noise(data: bytearray, generator: Generator) -> bytes:
    start = generator.integers(0, len(data))
    return bytes(data[:start] + generator.bytes(len(data) - start))


DAMAGES: list[Damage] = [
    flip_bits, flip_bits, overwrite, overwrite, cut_off, lose_stretch, swap_stretches, repeat_stretch, replace_by_noise
]  # fmt: skip


def damaged(data: bytes, case: int) -> bytes:
    generator = np.random.default_rng([17, case])
    return DAMAGES[generator.integers(0, len(DAMAGES))](bytearray(data), generator)


def whole_media() -> list[tuple[str, bytes]]:
    frames = natural_frames(8, 32, 48)

    def clip(container: str, codec: str) -> bytes:
        return make_clip(8, width=48, height=32, keyframe_interval=4, container=container, codec=codec, frames=frames)

    tensors = {"features": torch.randn(3, 5, 8).bfloat16(), "frame_ms": torch.arange(3) * 250}
    videos = [("mp4", clip("mp4", "libx264"))] * 6 + [
        ("mov", clip("mov", "mpeg4")),
        ("mkv", clip("matroska", "libx264")),
    ]
    videos += [("webm", clip("webm", "libvpx")), ("avi", clip("avi", "mpeg4")), ("gif", make_gif(5))]
    images = [(ending, make_image(form=form)) for ending, form in (("jpg", "jpeg"), ("png", "png"), ("webp", "webp"))]
    return [*videos, *images, ("safetensors", save(tensors))]


class Reading:
    """Reads samples as a run that leaves out wrong ones does, and counts what became of each."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.failures = FailurePolicy("skip", str(folder / "skipped.jsonl"), max_skipped_share=1.0)
        self.media = MediaReader(
            FrameSampling(num_frames=4), PixelTransform(PixelOptions(16), train=False), Decoding(timeout_s=30)
        )
        self.tokenizer = tokenizer
        self.outcomes: Counter[str] = Counter()
        self.good = write_members(folder / "good.tar", [("good.json", json.dumps(make_record(media=False)).encode())])

    def read(self, shard: Path) -> int:
        """Read all samples of a shard; gives how many there are."""
        try:
            index = load_index(shard)
        except ShardError as error:
            self.outcomes["shard refused" if str(shard) in str(error) else "shard refused without its name"] += 1
            return 0
        reader = ShardReader([load_index(self.good), index])
        dataset = ConversationDataset(reader, self.tokenizer, self.media, failures=self.failures)
        for number in range(1, len(reader)):
            _, sample = dataset.__getitems__([Draw(0, 0), Draw(number, number)])
            self.outcomes["refused" if sample.key == SKIPPED_KEY else "read"] += 1
            for frames, frame_ms, _ in sample.media:
                assert frames.dtype == torch.bfloat16 or frames.shape[1:] == (3, 16, 16)
                assert len(frames) == len(frame_ms) > 0
        assert dataset.skipped is not None
        self.kinds = dataset.skipped.counts()
        return len(index.entries)


@pytest.mark.parametrize("cases", MEDIA_CASES)
def test_damaged_media_is_decoded_or_refused(cases: range, tmp_path: Path, tokenizer: Any) -> None:
    whole = whole_media()
    members = []
    for case in cases:
        ending, data = whole[case % len(whole)]
        if case % 20 == 19:  # what stands under the name of another kind
            data = whole[(case * 7 + 3) % len(whole)][1]
        elif case >= len(whole):
            data = damaged(data, case)
        members += [(f"{case}.{ending}", data), (f"{case}.json", json.dumps(make_record()).encode())]
    reading = Reading(tmp_path, tokenizer)
    assert reading.read(write_members(tmp_path / "x.tar", members)) == len(cases)
    assert sum(reading.outcomes.values()) == len(cases)
    assert sum(reading.kinds.values()) == reading.outcomes["refused"]
    assert min(reading.outcomes["read"], reading.outcomes["refused"]) > len(cases) / 10
    assert "timeout" not in reading.kinds


@pytest.mark.parametrize("cases", TAR_CASES)
def test_damaged_tars_are_read_or_refused(cases: range, tmp_path: Path, tokenizer: Any) -> None:
    record = json.dumps(make_record(meta={"num_frames": 1})).encode()
    members = [("a.png", make_image(width=8, height=8)), ("a.json", record), ("b.json", record), ("c.json", record)]
    members += [("b.webp", make_image(form="webp")), ("c.mp4", make_clip(1, width=16, height=16))]
    members = sorted(members, key=lambda member: member[0].split(".")[0])
    whole = write_members(tmp_path / "whole.tar", members).read_bytes()
    whole = whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 3 * 512]  # without the padding that no damage matters in
    reading = Reading(tmp_path, tokenizer)
    num_samples = 0
    for case in cases:
        shard = tmp_path / f"{case}.tar"
        shard.write_bytes(damaged(whole, case) if case else whole)
        num_samples += reading.read(shard)
    assert reading.outcomes["shard refused"] > len(cases) / 10
    assert reading.outcomes["shard refused without its name"] == 0
    assert reading.outcomes["read"] + reading.outcomes["refused"] == num_samples > len(cases) / 10


TEXT_ROW = make_record([("which colour ?", "rött"), ("what ?", "nothing")], media=False, start_ms=0, end_ms=5)
ALBUM_ROW = record_of("<video> or <video> ?", "<video_1> ?", media=[{"start_ms": 0, "meta": {"width": 8}}, {}])


def wrong_row(case: int, right: dict[str, Any] = TEXT_ROW) -> bytes:
    """A JSON row with wrong types, missing fields, a wrong encoding or damaged bytes."""
    generator = np.random.default_rng([23, case])
    row: Any = copy.deepcopy(right)
    values = [None, True, 10**400, -1, 1e400, 0.5, "", "\ud800", "<video>", [], [[]], {}, {"a": None}, "x" * 9999]
    values += [f"<video_{number}>" for number in (0, 1, 2, 10**9)] if right is ALBUM_ROW else []
    for _ in range(generator.integers(1, 4)):
        place = row
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[generator.integers(0, len(keys))]
            if isinstance(place[key], dict | list) and generator.random() < 0.7:
                place = place[key]
                continue
            if generator.random() < 0.25:
                del place[key]
            else:
                place[key] = copy.deepcopy(values[generator.integers(0, len(values))])
            break
    text = json.dumps(row, ensure_ascii=generator.random() < 0.5)
    encoding = ["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "latin-1", "utf-8-sig", "cp500"][
        generator.integers(0, 8)
    ]
    data = text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")
    if generator.random() < 0.1:
        data = b"[" * 100_000 + data
    return damaged(data, case) if generator.random() < 0.3 else data


@pytest.mark.parametrize("cases", ROW_CASES)
def test_wrong_json_rows_are_read_or_refused(cases: range, tmp_path: Path, tokenizer: Any) -> None:
    reading = Reading(tmp_path, tokenizer)
    shard = write_members(tmp_path / "x.tar", [(f"{case}.json", wrong_row(case)) for case in cases])
    assert reading.read(shard) == len(cases)
    assert reading.outcomes["read"] + reading.outcomes["refused"] == len(cases)
    assert reading.kinds == {"sample": reading.outcomes["refused"]}
    assert min(reading.outcomes["read"], reading.outcomes["refused"]) > len(cases) / 50


def test_wrong_json_rows_beside_several_media_are_read_or_refused(tmp_path: Path, tokenizer: Any) -> None:
    reading = Reading(tmp_path, tokenizer)
    picture = make_image(width=8, height=8)
    members = []
    for case in range(200):
        members += [(f"{case}.{number}.png", picture) for number in (0, 1)]
        members.append((f"{case}.json", wrong_row(case, ALBUM_ROW)))
    assert reading.read(write_members(tmp_path / "x.tar", members)) == 200
    assert reading.outcomes["read"] + reading.outcomes["refused"] == 200
    assert reading.kinds == {"sample": reading.outcomes["refused"]}
    assert min(reading.outcomes["read"], reading.outcomes["refused"]) > 4


def test_there_are_a_thousand_damaged_files_in_the_quick_test() -> None:
    quick = [param.values[0] for cases in (MEDIA_CASES, TAR_CASES, ROW_CASES) for param in cases if not param.marks]
    assert sum(len(cases) for cases in quick) >= 1000  # type: ignore[arg-type]
