import io
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import BrokenMediaError, SampleError
from datamodules.media.array_media import read_array
from datamodules.media.frame_sampling import FrameSampling
from datamodules.shards.schema import MediumFacts

PIXELS = np.arange(6 * 2 * 4 * 3, dtype=np.uint8).reshape(6, 2, 4, 3)


def npy(array: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    np.save(target, array, **options)
    return target.getvalue()


def facts(start_ms: int | None = None, end_ms: int | None = None, **meta: Any) -> MediumFacts:
    return MediumFacts(start_ms, end_ms, meta or {"frame_interval_ms": 100})


def test_stored_frames_are_sampled_as_a_video_is() -> None:
    whole = read_array(npy(PIXELS), facts(), FrameSampling(6))
    assert torch.equal(whole.frames, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert whole.frame_ms.tolist() == [0, 100, 200, 300, 400, 500]
    few = read_array(npy(PIXELS), facts(), FrameSampling(2))
    assert few.frame_ms.tolist() == [100, 400]
    assert torch.equal(few.frames, whole.frames[[1, 4]])
    part = read_array(npy(PIXELS), facts(200, 400), FrameSampling(num_frames=None, fps=10))
    assert part.frame_ms.tolist() == [0, 100]
    assert torch.equal(part.frames, whole.frames[2:4])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(PIXELS.astype(np.float32)), r"must be uint8 \[T, H, W, 3\] in C order, got float32 \[6, 2, 4, 3\]"),
        (npy(PIXELS[0]), r"got uint8 \[2, 4, 3\]"),
        (npy(PIXELS[:0]), r"got uint8 \[0, 2, 4, 3\]"),
        (npy(np.asfortranarray(PIXELS)), "in Fortran order|in Fortran"),
        (npy(PIXELS)[:-1], "needs 144 bytes, but 143 are there"),
        (b"", "no npy array"),
        (b"\x93NUMPY\x03\x00" + bytes(80), r"npy version \(3, 0\) is not read"),
        (npy(PIXELS).replace(b"(6, 2, 4, 3)", b"(10**9,2,4,3"), "no npy array"),
    ],
)
def test_other_arrays_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(BrokenMediaError, match=f"shard s, key k: .*({message})"):
        read_array(data, facts(), FrameSampling(2), where="shard s, key k")


def test_a_shape_that_is_not_there_takes_no_memory() -> None:
    data = npy(PIXELS).replace(b"'shape': (6, 2, 4, 3), }              ", b"'shape': (999999999, 9999, 4, 3), }   ")
    with pytest.raises(BrokenMediaError, match="needs 119987999880012 bytes"):
        read_array(data, facts(), FrameSampling(2))


@pytest.mark.parametrize("meta", [{"length": "8x"}, {"frame_interval_ms": 0}, {"frame_interval_ms": "40"}])
def test_frames_need_their_interval(meta: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match=r"needs meta 'frame_interval_ms'.*add it to the sample's JSON"):
        read_array(npy(PIXELS), facts(**meta), FrameSampling(2))


def test_a_part_behind_the_end_is_an_error() -> None:
    with pytest.raises(SampleError, match="shard s, key k: start_ms 700 is after the video's end"):
        read_array(npy(PIXELS), facts(700, 900), FrameSampling(2), where="shard s, key k")
