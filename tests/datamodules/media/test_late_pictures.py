"""Films whose picture starts after the sound, or ends before it."""

import io

import av
import numpy as np
import pytest

from datamodules.errors import BrokenMediaError
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import make_video
from tests.datamodules.numbered_films import FILM, right_frames
from tests.datamodules.video_files import sample_frames


@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize("start_ms", [0, 600, 2000, 5000])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_picture_that_starts_after_its_sound_and_ends_before_it_is_whole(
    container: str, start_ms: int, tagged: bool
) -> None:
    data = with_sound(make_video(FILM), container, start_ms)
    right_frames(data if tagged else data.replace(b"DURATION", b"XURATION"), 0, 60)


@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize("start_ms", [0, 2000, 3_600_000])
def test_a_late_picture_that_was_cut_off_is_still_noticed(container: str, start_ms: int) -> None:
    film = make_video(FILM._replace(container=container, start_ms=start_ms))
    right_frames(film, 0, 60)
    for part in (0.5, 0.8):
        with pytest.raises(BrokenMediaError, match="again"):
            sample_frames(film[: int(part * len(film))], FrameSampling(3))


def with_sound(film: bytes, container: str, start_ms: int) -> bytes:
    """The film's packets from ``start_ms`` on, beside twelve seconds of silence."""
    target = io.BytesIO()
    with av.open(io.BytesIO(film)) as given, av.open(target, "w", format=container) as output:
        video = output.add_stream_from_template(given.streams.video[0])
        sound = output.add_stream("libopus", rate=48000)
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
        for packet in packets:  # WebM counts milliseconds
            packet.pts, packet.dts, packet.stream = packet.pts + start_ms, packet.dts + start_ms, video
        for number in range(600):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype=np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 48000, 960 * number
            packets += sound.encode(silence)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return target.getvalue()
