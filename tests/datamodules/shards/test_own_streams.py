"""What films tell in their own stream, whatever the container says: their turn, and which packets show a frame."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.convert.reencode_video import Reencoding, reencode_video
from datamodules.convert.row_problems import RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.errors import BrokenMediaError
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import Form, make_video, numbers
from tests.datamodules.video_files import opened, sample_frames

NUM_FRAMES = 20
# Units of the streams, each behind its length. Source: ITU-T H.264, D.1.27 (display orientation) and H.265, 7.3.2.8.
TURN = b"\x00\x00\x00\x07" + b"\x06\x2f\x03\x08\x00\x09\x80"  # 90 degrees counterclockwise, until told otherwise
FILLER = b"\x00\x00\x00\x03" + b"\x4c\x01\x80"


def film(container: str = "mp4", codec: str = "libx264", options: tuple[tuple[str, str], ...] = ()) -> bytes:
    times = tuple(range(0, 100 * NUM_FRAMES, 100))
    return make_video(Form(container, codec, times_ms=times, codec_options=options))


def remuxed(source: bytes, container: str, change: Any) -> bytes:
    """The same film with its packets changed."""
    target = io.BytesIO()
    with av.open(io.BytesIO(source)) as given, av.open(target, "w", format=container) as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        packets = (packet for packet in given.demux(video=0) if packet.size)
        for packet in change(packets):
            packet.stream = stream
            output.mux(packet)
    return target.getvalue()


def with_content(packet: Any, content: bytes) -> Any:
    changed = av.Packet(content)
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.is_keyframe = packet.is_keyframe
    return changed


def turned_in_its_stream(packets: Iterable[Any]) -> Iterator[Any]:
    """Keyframes tell a turn that holds for all."""
    for packet in packets:
        yield with_content(packet, TURN + bytes(packet)) if packet.is_keyframe else packet


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_turn_that_only_some_frames_tell_holds_for_those_after_them(container: str, tmp_path: Path) -> None:
    plain = opened(film(container)).frames(range(NUM_FRAMES)).pixels
    path = tmp_path / "film"
    path.write_bytes(remuxed(film(container), container, turned_in_its_stream))
    first = opened(path.read_bytes()).frames([0]).pixels
    assert first.shape[1:3] == (128, 64)
    every = opened(path.read_bytes()).frames(range(NUM_FRAMES)).pixels
    assert np.array_equal(every, np.rot90(plain, 1, (1, 2)))
    assert np.array_equal(sample_frames(path.read_bytes(), FrameSampling(3)).pixels, every[[3, 10, 16]])
    assert probe_video(path)[:2] == (64, 128)
    target = tmp_path / "again.mp4"
    reencode_video(path, target, Reencoding(64), 1000, None, lambda: None)
    again = opened(target.read_bytes()).frames(range(NUM_FRAMES // 2)).pixels
    assert again.shape[1:3] == (128, 64)
    assert numbers(np.rot90(again, -1, (1, 2))) == list(range(10, 20))


def with_lost_frames(packets: Iterable[Any]) -> Iterator[Any]:
    """Three of five packets show nothing, as those whose references are damaged do."""
    for number, packet in enumerate(packets):
        yield packet if number % 5 < 2 else with_content(packet, FILLER)


def test_a_film_of_which_the_decoder_drops_most_frames_without_a_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    whole = film("mp4", "libx265", (("x265-params", "keyint=1:log-level=none"),))
    path.write_bytes(remuxed(whole, "mp4", with_lost_frames))
    with pytest.raises(BrokenMediaError, match="only 8 of 20 frames can be decoded; fetch or encode it again"):
        opened(path.read_bytes()).frames(range(NUM_FRAMES))
    with pytest.raises(BrokenMediaError, match="only 8 of 20 frames"):
        list(opened(path.read_bytes()).play())
    with pytest.raises(RowProblem, match="only 8 of 20 frames"):
        reencode_video(path, tmp_path / "again.mp4", Reencoding(64), None, None, lambda: None)
