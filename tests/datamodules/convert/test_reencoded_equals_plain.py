"""A video that was encoded again gives training the same frames at the same times in the same colours."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datamodules.convert.reencode_video import Reencoding, reencode_video
from datamodules.convert.video_check import probe_video
from datamodules.media.decoded_frames import DecodedFrames, FrameSize
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from datamodules.media.video_container import CONVERTED_FORMATS
from tests.datamodules.made_videos import (
    EIGHT_MATRICES,
    HEIGHT,
    Form,
    as_stored,
    block_colours,
    make_video,
    numbered_frame,
    numbers,
)

DROPS = (0, 100, 200, 300, 400, 900, 1000, 1600, 1700)
"""Times of a screen recorder, which writes a frame where something changed."""

_GIF_PALETTE = 32
"""An encoder's palette of 256 colours is that far from them."""

CONTAINERS = [
    Form("mp4"),
    Form("mov"),
    Form("matroska"),
    Form("webm", "libvpx"),
    Form("webm", "libvpx-vp9"),
    Form("avi", "mpeg4"),
    Form("avi", "libx264"),
    Form("avi", "mjpeg", "yuvj420p", full_range=True),
    Form("mpegts"),
    Form("mpegts", "mpeg4"),
    Form("flv"),
    Form("asf", "wmv2"),
    Form("gif", "gif", "rgb8"),
    Form("mp4", options=(("movflags", "frag_keyframe+empty_moov"),)),
]
COLOURS = [
    Form("mp4", matrix=matrix, full_range=full_range)
    for matrix, full_range in itertools.product(["", "bt601", "bt709", "bt2020"], [False, True])
]
DEPTHS = [
    Form("mp4", pixel_format="yuv420p10le", matrix="bt2020"),
    Form("mp4", pixel_format="yuv422p", matrix="bt709"),
    Form("matroska", pixel_format="yuv444p", matrix="bt709"),
    Form("matroska", "libx264rgb", "rgb24"),
    Form("matroska", "ffv1", "gbrp10le"),
    Form("matroska", "ffv1", "bgra"),
    Form("mov", "png", "rgb24"),
    Form("mov", "qtrle", "argb"),
    Form("mp4", pixel_format="yuv444p10le", matrix="bt709", full_range=True),
]
LATE = [
    form._replace(start_ms=start) for form in (CONTAINERS[0], CONTAINERS[2], CONTAINERS[8]) for start in (230, 7000)
]
TURNED = [Form("mp4", display=matrix) for matrix in EIGHT_MATRICES[1:]]
DROPPED = [form._replace(times_ms=DROPS) for form in (CONTAINERS[0], CONTAINERS[2], CONTAINERS[3], CONTAINERS[5])]


def every_combination() -> Iterator[Form]:
    """Containers with start times, drops, colours, depths and turns, as far as the container can store them."""
    every_100_ms = Form().times_ms
    for form, start, times in itertools.product(CONTAINERS, (0, 230, 3_600_000), (every_100_ms, DROPS)):
        stores_start = form.container not in ("avi", "gif")
        stores_gaps = (form.container, form.codec) != ("avi", "libx264")  # gaps of an AVI are in the order of decoding
        if (stores_start or not start) and (stores_gaps or times is every_100_ms):
            yield form._replace(start_ms=start, times_ms=times)
    for colour, container, start in itertools.product(COLOURS, ("mp4", "matroska", "mov"), (0, 230)):
        yield colour._replace(container=container, start_ms=start)
    for depth, start, times in itertools.product(DEPTHS, (0, 230), (every_100_ms, DROPS)):
        yield depth._replace(start_ms=start, times_ms=times)
    for display, colour, start in itertools.product(EIGHT_MATRICES, COLOURS, (0, 230)):
        yield colour._replace(display=display, start_ms=start, times_ms=DROPS)


def frames_of(data: bytes) -> tuple[DecodedFrames, int]:
    """All frames and the length in milliseconds."""
    video = PyAVDecoder(io.BytesIO(data), FrameSize(), "video", CONVERTED_FORMATS)
    return video.frames(range(len(video.frame_ms))), video.duration_ms


def check(form: Form, folder: Path, size: int) -> None:
    (folder / "source").write_bytes(make_video(form))
    plain, plain_ms = frames_of((folder / "source").read_bytes())
    assert plain.frame_ms == pytest.approx(list(form.times_ms), abs=1), "the source is what it should be"
    reencode_video(folder / "source", folder / "target", Reencoding(size, 4), None, None, lambda: None)
    again, again_ms = frames_of((folder / "target").read_bytes())
    assert again.frame_ms == pytest.approx(plain.frame_ms, abs=1)
    assert again_ms == pytest.approx(plain_ms, abs=1)
    assert probe_video(folder / "source", stored=False).duration_ms == plain_ms
    stored = [as_stored(frames.pixels, form.display) for frames in (plain, again)]
    assert numbers(stored[0]) == numbers(stored[1]) == list(range(len(form.times_ms)))
    truth, *colours = (block_colours(frames)[:, :4] for frames in (numbered_frame(0)[None], *stored))
    assert colours[0] == pytest.approx(colours[1], abs=6)
    close = _GIF_PALETTE if form.codec == "gif" else 8
    assert colours[0] == pytest.approx(np.repeat(truth, len(colours[0]), axis=0), abs=close)


@pytest.mark.parametrize("form", [*CONTAINERS, *COLOURS, *DEPTHS, *LATE, *TURNED, *DROPPED], ids=str)
def test_a_reencoded_video_equals_the_plain_one(form: Form, tmp_path: Path) -> None:
    check(form, tmp_path, HEIGHT)


@pytest.mark.parametrize("form", [CONTAINERS[0], COLOURS[5], LATE[0], TURNED[2], TURNED[5], DROPPED[3]], ids=str)
def test_a_video_that_was_scaled_down_equals_the_plain_one(form: Form, tmp_path: Path) -> None:
    check(form, tmp_path, HEIGHT // 2)


@pytest.mark.nightly
@pytest.mark.parametrize("size", [HEIGHT, HEIGHT // 2])
@pytest.mark.parametrize("form", list(every_combination()), ids=str)
def test_every_form_equals_the_plain_one(form: Form, size: int, tmp_path: Path) -> None:
    check(form, tmp_path, size)
