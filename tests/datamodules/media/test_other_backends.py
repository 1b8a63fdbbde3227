"""decord and torchcodec give PyAV's frames and times, or refuse a video by name: never other frames."""

import numpy as np
import pytest

from datamodules.errors import BrokenMediaError
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import EIGHT_MATRICES, Form, make_video
from tests.datamodules.media.test_odd_videos import FILM, remuxed, with_hidden_packets
from tests.datamodules.video_files import sample_frames

LONG = tuple(range(0, 6000, 100))


def odd_films() -> dict[str, bytes]:
    films = {
        "plain": make_video(Form(times_ms=LONG)),
        "mkv": make_video(Form("matroska", times_ms=LONG, start_ms=2000)),
        "h264 in avi": make_video(Form("avi", times_ms=LONG)),
        "mpeg4 in avi": make_video(Form("avi", "mpeg4", times_ms=LONG)),
        "open gop": make_video(Form(times_ms=LONG, codec_options=(("x264-params", "open-gop=1:bframes=3:keyint=12"),))),
        "refreshed": make_video(Form(times_ms=LONG, codec_options=(("x264-params", "intra-refresh=1:keyint=20"),))),
        "hidden": remuxed(make_video(FILM), "webm", with_hidden_packets),
        "mirrored": make_video(Form(display=EIGHT_MATRICES[4], times_ms=LONG)),
        "turned": make_video(Form(display=EIGHT_MATRICES[1], times_ms=LONG)),
    }
    films["starts late"] = remuxed(films["plain"], "mp4", lambda packets: list(packets)[3:])
    return films


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_another_backend_gives_the_same_frames_or_refuses_the_video(backend: str) -> None:
    pytest.importorskip(backend)
    same = set()
    for name, data in odd_films().items():
        for asked in (5, 16, 1000):
            ours = sample_frames(data, FrameSampling(asked))
            try:
                theirs = sample_frames(data, FrameSampling(asked), backend=backend)
            except BrokenMediaError:
                continue
            assert theirs.frame_ms.tolist() == ours.frame_ms.tolist(), name
            assert np.abs(theirs.pixels.astype(int) - ours.pixels).mean() < 3, name
            same.add(name)
    assert same >= {"plain", "mkv", "turned"}
    assert "mirrored" not in same
