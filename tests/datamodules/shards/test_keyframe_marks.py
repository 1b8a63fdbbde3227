"""Videos whose programs marked frames as keyframes that are none: every frame is right all the same."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest

from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from tests.datamodules.made_videos import Form, make_video, numbers

NUM_FRAMES = 40
Mark = Callable[[bytearray], bytes]


def film(codec: str, *options: tuple[str, str]) -> bytearray:
    times = tuple(range(0, 100 * NUM_FRAMES, 100))
    return bytearray(make_video(Form(codec=codec, times_ms=times, codec_options=options)))


def with_every_frame_marked(data: bytearray) -> bytes:
    """Without the list of keyframes (``stss``) all samples of an MP4 are keyframes."""
    place = data.index(b"stss")
    data[place : place + 4] = b"free"
    return bytes(data)


def with_wrong_frames_marked(data: bytearray) -> bytes:
    """All keyframes but the first are listed two frames later."""
    place = data.index(b"stss")
    (count,) = struct.unpack_from(">I", data, place + 8)
    for number in range(1, count):
        at = place + 12 + 4 * number
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + 2)
    return bytes(data)


@pytest.mark.parametrize("mark", [with_every_frame_marked, with_wrong_frames_marked])
@pytest.mark.parametrize(
    ("codec", "options"),
    [("mpeg4", ()), ("mpeg4", (("bf", "2"),)), ("libvpx-vp9", (("cpu-used", "8"), ("g", "5"))), ("libx264", ())],
)
def test_frames_that_are_wrongly_marked_as_keyframes_do_not_make_frames_wrong(
    mark: Mark, codec: str, options: tuple[tuple[str, str], ...]
) -> None:
    data = mark(film(codec, *options))
    video = PyAVDecoder(io.BytesIO(data), FrameSize(), "film")
    assert len(video.frame_ms) == NUM_FRAMES
    for chosen in ([22], [13, 38], list(range(NUM_FRAMES))):
        frames = video.frames(chosen)
        assert numbers(frames.pixels) == chosen
        assert frames.frame_ms.tolist() == [100 * number for number in chosen]


@pytest.mark.parametrize("mark", [with_every_frame_marked, with_wrong_frames_marked])
@pytest.mark.parametrize("codec", ["mpeg4", "libvpx-vp9"])
def test_playing_from_a_frame_that_is_wrongly_marked_shows_it_whole(mark: Mark, codec: str) -> None:
    video = PyAVDecoder(io.BytesIO(mark(film(codec))), FrameSize(), "film")
    played = [video._pixels.read(found.picture, 128, 64, found.orientation) for found in video.play(27)]
    assert numbers(np.stack(played)) == list(range(27, NUM_FRAMES))
