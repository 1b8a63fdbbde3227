"""Good videos that are stored in odd ways: training gets the frames that players show, from the first one on."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import PyAVDecoder, first_frame
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import Form, make_video, numbered_frame, numbers
from tests.datamodules.numbered_films import FILM, right_frames
from tests.datamodules.video_files import opened, sample_frames
from tests.fixtures_data import make_image


def remuxed(
    source: bytes,
    container: str,
    change: Callable[[Iterable[Any]], Iterable[Any]],
) -> bytes:
    """The same packets in a new file, after ``change`` left some out or added some."""
    target = io.BytesIO()
    with av.open(io.BytesIO(source)) as given, av.open(target, "w", format=container) as output:
        stream = output.add_stream_from_template(given.streams.video[0])

        def packets() -> Iterator[Any]:
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    yield packet

        for packet in change(packets()):
            packet.stream = stream
            output.mux(packet)
    return target.getvalue()


def with_hidden_packets(packets: Iterable[Any]) -> Iterator[Any]:
    """Before every keyframe of VP8 a copy of it that is not shown, as encoders store alternate reference frames."""
    for packet in packets:
        if packet.is_keyframe:
            hidden = av.Packet(bytes([bytes(packet)[0] & ~0x10]) + bytes(packet)[1:])
            hidden.pts = hidden.dts = packet.pts - 1 if packet.pts else packet.pts
            hidden.time_base = packet.time_base
            hidden.is_keyframe = False
            if packet.pts:
                yield hidden
        yield packet


def test_packets_that_show_nothing_are_no_frames() -> None:
    data = remuxed(make_video(FILM), "webm", with_hidden_packets)
    right_frames(data, 0, 60)


def test_a_comment_after_the_last_picture_of_a_gif_is_no_frame() -> None:
    plain = make_video(Form("gif", "gif", "rgb8", times_ms=range(0, 1200, 100)))
    assert plain.endswith(b";")
    right_frames(plain[:-1] + b"\x21\xfe\x05hello\x00;", 0, 12)


def test_a_gif_that_was_cut_off_anywhere_in_its_head_is_a_broken_video() -> None:
    plain = make_video(Form("gif", "gif", "rgb8", times_ms=range(0, 200, 100)))
    for length in range(1, 30):
        with pytest.raises(BrokenMediaError):
            opened(plain[:length])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("left_out", [1, 3, 7])
def test_a_film_that_starts_between_keyframes_starts_with_its_first_keyframe(container: str, left_out: int) -> None:
    film = make_video(Form("mp4", times_ms=range(0, 6000, 100)))  # a keyframe every five frames
    data = remuxed(film, container, lambda packets: list(packets)[left_out:])
    video = opened(data)
    frames = video.frames(range(len(video.frame_ms)))
    first = numbers(frames.pixels)[0]
    assert 0 < first <= 10
    assert numbers(frames.pixels) == list(range(first, 60))
    right_frames(data, first, 60 - first)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_a_frame_that_its_decoder_never_shows_is_replaced_by_the_one_before(container: str) -> None:
    # MPEG-4's mark of a frame that was not coded; how many bits its time has depends on the time base.
    mark = b"\x00\x00\x01\xb6" + (b"\x51\xbf" if container == "avi" else b"\x50\x06\x7f")

    def with_skipped(packets: Iterable[Any]) -> Iterator[Any]:
        for number, packet in enumerate(packets):
            skipped = av.Packet(mark)
            skipped.pts, skipped.dts, skipped.time_base = packet.pts, packet.dts, packet.time_base
            yield skipped if number in (7, 8, 23) else packet

    form = Form(container, "mpeg4", times_ms=range(0, 3000, 100))
    data = remuxed(make_video(form), container, with_skipped)
    everything = opened(data).frames(range(30))
    shown = [n for n in range(30) if n not in (7, 8, 23)]
    assert everything.frame_ms.tolist() == [100 * n for n in shown]
    alone = opened(data).frames([8, 23, 24])
    assert alone.frame_ms.tolist() == [600, 2200, 2400]
    assert np.array_equal(alone.pixels, everything.pixels[[6, 20, 21]])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_b_frames_with_the_times_of_their_decoding_are_shown_in_their_order(container: str) -> None:
    film = make_video(Form("mp4", "mpeg4", codec_options=(("bf", "2"), ("b_strategy", "0"))))

    def as_xvid_is_stored(packets: Iterable[Any]) -> Iterator[Any]:
        packets = list(packets)
        assert any(packet.pts != packet.dts for packet in packets)
        for packet, time in zip(packets, sorted(packet.pts for packet in packets), strict=True):
            packet.pts = packet.dts = time
            yield packet

    right_frames(remuxed(film, container, as_xvid_is_stored), 0, 12)


def test_two_frames_in_one_packet_of_an_avi_are_counted_as_two() -> None:
    """As DivX stores B-frames: packed with the frame after them, and a mark in the place of their own packet."""
    frames = [
        av.VideoFrame.from_ndarray(numbered_frame(n), format="rgb24").reformat(format="yuv420p") for n in range(31)
    ]
    target = io.BytesIO()
    with av.open(target, "w", format="avi") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.max_b_frames, stream.codec_context.thread_count = 1, 1
        stream.codec_context.options = {"b_strategy": "0", "sc_threshold": "1000000000", "qmin": "1", "qmax": "4"}
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        intra, *others = [bytes(packet) for packet in packets]
        start = intra.index(b"\x00\x00\x01\xb6")
        stored = [intra[:start] + b"\x00\x00\x01\xb2DivX503b1393p\x00" + intra[start:]]
        for later, earlier in zip(others[::2], others[1::2], strict=True):
            stored += [later + earlier, b"\x00\x00\x01\xb6\x51\xbf"]
        for number, data in enumerate(stored):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = packets[0].time_base, stream, number == 0
            output.mux(packet)
    right_frames(target.getvalue(), 0, 31)


def test_an_edit_list_that_ends_a_film_early_is_no_damage() -> None:
    data = bytearray(make_video(Form("mp4", times_ms=range(0, 6000, 100))))
    for box, offset in ((b"elst", 12), (b"mvhd", 20), (b"tkhd", 24)):  # show the first 2.5 s
        start = data.index(box) + offset
        data[start : start + 4] = (2500).to_bytes(4, "big")
    right_frames(bytes(data), 0, 25)


@pytest.mark.parametrize("container", ["mov", "matroska"])
def test_the_film_is_read_and_not_its_thumbnail(container: str, tmp_path: Path) -> None:
    target = io.BytesIO()
    film, picture = make_video(Form("mp4", times_ms=range(0, 6000, 100))), make_image(form="jpeg")
    with av.open(io.BytesIO(film)) as given, av.open(target, "w", format=container) as output:
        small = output.add_stream("mjpeg", rate=10)
        small.width, small.height, small.pix_fmt = 64, 48, "yuvj420p"
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in small.encode(av.VideoFrame(64, 48, "yuvj420p")) + small.encode(None):
            output.mux(packet)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    assert picture
    right_frames(target.getvalue(), 0, 60)
    (tmp_path / "film").write_bytes(target.getvalue())
    assert probe_video(tmp_path / "film") == (128, 64, 6000)


def test_a_container_that_cannot_seek_is_decoded_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_video(Form("matroska", times_ms=range(0, 6000, 100)))
    plain = sample_frames(data, FrameSampling(4))
    open_decoding = PyAVDecoder._open_decoding

    class Unseekable:
        def __init__(self, container: Any) -> None:
            self.decode = container.decode

        def seek(self, *arguments: Any, **options: Any) -> None:
            raise av.error.PermissionError(1, "Operation not permitted")

    @contextlib.contextmanager
    def opening(self: PyAVDecoder) -> Iterator[tuple[Any, Any]]:
        with open_decoding(self) as (container, stream):
            yield Unseekable(container), stream

    monkeypatch.setattr(PyAVDecoder, "_open_decoding", opening)
    frames = sample_frames(data, FrameSampling(4))
    assert np.array_equal(frames.pixels, plain.pixels)
    assert [found.number for found in PyAVDecoder(io.BytesIO(data), FrameSize(), "key 'a'").play(50)] == list(
        range(50, 60)
    )


@pytest.mark.parametrize("again_ms", [0, 3_600_000])
def test_pieces_of_a_recording_whose_clocks_differ_are_refused_by_name(again_ms: int, tmp_path: Path) -> None:
    pieces = [make_video(Form("mpegts", times_ms=range(0, 4000, 100), start_ms=start)) for start in (0, again_ms)]
    (tmp_path / "joined.ts").write_bytes(b"".join(pieces))
    with pytest.raises(RowProblem, match=r"times jump from 4\.\d s to .* at frame 4\d.*ffmpeg -i FILE -c copy"):
        probe_video(tmp_path / "joined.ts", stored=False)


def test_webm_recordings_that_were_joined_byte_by_byte_are_refused_by_name() -> None:
    piece = make_video(FILM)
    with pytest.raises(BrokenMediaError, match="its times jump"):
        sample_frames(piece + piece, FrameSampling(1000))


def test_a_first_frame_is_decoded_within_the_largest_size_only() -> None:
    data = make_video(FILM)
    width, height = opened(data).frames([0]).pixels.shape[2:0:-1]
    first_frame(io.BytesIO(data), FrameSize(width * height * 4), "film")
    with pytest.raises((BrokenMediaError, av.FFmpegError)):
        first_frame(io.BytesIO(data), FrameSize(width * height // 4), "film")


def test_frames_whose_size_changes_are_scaled_to_the_first_one(tmp_path: Path) -> None:
    film = make_video(FILM)
    target = io.BytesIO()
    with av.open(io.BytesIO(film)) as given, av.open(target, "w", format="webm") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        half = av.CodecContext.create("libvpx", "w")
        half.width, half.height, half.pix_fmt, half.time_base = 64, 32, "yuv420p", Fraction(1, 1000)
        half.options = {"qmin": "1", "qmax": "4", "b": "4M"}
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None][:30]
        for number in range(30, 60):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number)[::2, ::2].copy(), format="rgb24")
            frame.pts, frame.time_base = 100 * number, Fraction(1, 1000)
            packets += half.encode(frame.reformat(format="yuv420p"))
        for packet in packets + half.encode(None):
            packet.stream = stream
            output.mux(packet)
    right_frames(target.getvalue(), 0, 60)
    (tmp_path / "call").write_bytes(target.getvalue())
    assert probe_video(tmp_path / "call") == (128, 64, 6000)


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "libx264"), ("flv", "flv"), ("asf", "wmv2")])
def test_a_file_of_another_format_called_mp4_is_left_out_by_the_converter_as_by_training(
    container: str, codec: str, tmp_path: Path
) -> None:
    (tmp_path / "film.mp4").write_bytes(make_video(Form(container, codec)))
    with pytest.raises(RowProblem, match=r"which shards do not hold.*try --reencode") as caught:
        probe_video(tmp_path / "film.mp4")
    assert caught.value.reason is Reason.UNSUPPORTED
    assert probe_video(tmp_path / "film.mp4", stored=False).width == 128
    with pytest.raises(BrokenMediaError, match="the file is no MP4"):
        sample_frames((tmp_path / "film.mp4").read_bytes(), FrameSampling())
