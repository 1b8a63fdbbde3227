import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.convert.reencode_video import Reencoding, reencode_video, scaled_size
from datamodules.convert.row_problems import ConversionError, RowProblem
from datamodules.convert.video_check import probe_video
from tests.datamodules.convert.conversions import convert, left_out, llava_item, read_samples, write_json
from tests.fixtures_data import frame_level, make_clip, make_image

LEVEL_TOLERANCE = 4
"""Neighbouring frames of a made clip differ by far more; see ``frame_level``."""


def reencode(
    clip: bytes, folder: Path, size: int = 32, interval: int = 4, start_ms: int | None = None, end_ms: int | None = None
) -> Path:
    (folder / "source").write_bytes(clip)
    ticks: list[None] = []
    target = folder / "target"
    reencode_video(folder / "source", target, Reencoding(size, interval), start_ms, end_ms, lambda: ticks.append(None))
    assert ticks
    return target


def decoded(path: Path) -> list[tuple[int, float]]:
    """Milliseconds and mean grey level of every frame."""
    with av.open(str(path)) as container:
        return [
            (round(frame.time * 1000), float(frame.to_ndarray(format="rgb24").mean()))
            for frame in container.decode(video=0)
        ]


def is_frame(level: float, index: int) -> bool:
    return abs(level - frame_level(index)) <= LEVEL_TOLERANCE


def uneven_clip(times_ms: list[int]) -> bytes:
    """Frames at these times, as a screen recorder writes them."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), frame_level(index), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [
        ((640, 480), 224, (298, 224)),
        ((480, 640), 224, (224, 298)),
        ((64, 48), 224, (64, 48)),
        ((63, 47), 224, (62, 46)),
        ((1000, 20), 16, (800, 16)),
    ],
)
def test_sizes_are_even_and_never_larger(size: tuple[int, int], shorter: int, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, shorter) == expected


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("matroska", "libx264"), ("mpegts", "libx264")],
)
def test_every_frame_is_kept_at_its_time(tmp_path: Path, container: str, codec: str) -> None:
    frames = decoded(reencode(make_clip(12, fps=25, container=container, codec=codec), tmp_path))
    assert [time for time, _ in frames] == [40 * index for index in range(12)]
    assert all(is_frame(level, index) for index, (_, level) in enumerate(frames))


def test_a_part_starts_with_the_frame_on_show_and_ends_in_time(tmp_path: Path) -> None:
    clip = make_clip(40, fps=4, keyframe_interval=12)
    target = reencode(clip, tmp_path, start_ms=3900, end_ms=5100)
    frames = decoded(target)
    assert [time for time, _ in frames] == [0, 100, 350, 600, 850, 1100]
    assert all(is_frame(level, 15 + index) for index, (_, level) in enumerate(frames))
    assert probe_video(target).duration_ms == 1200


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_parts_join_to_the_whole(tmp_path: Path, container: str) -> None:
    clip = make_clip(12, fps=4, container=container, codec="libx264" if container == "mp4" else "mpeg4")
    joined = []
    for start in (0, 1000, 2000):
        joined += [
            (start + time, level) for time, level in decoded(reencode(clip, tmp_path, 48, 4, start, start + 1000))
        ]
    assert [time for time, _ in joined] == [250 * index for index in range(12)]
    assert all(is_frame(level, index) for index, (_, level) in enumerate(joined))


def test_a_variable_frame_rate_stays_one(tmp_path: Path) -> None:
    times = [0, 33, 500, 533, 2000, 2100]
    target = reencode(uneven_clip(times), tmp_path)
    frames = decoded(target)
    assert [time for time, _ in frames] == times
    assert all(is_frame(level, index) for index, (_, level) in enumerate(frames))
    frames = decoded(reencode(uneven_clip(times), tmp_path, start_ms=600, end_ms=2050))
    assert [time for time, _ in frames] == [0, 1400]
    assert is_frame(frames[0][1], 3)
    assert probe_video(tmp_path / "target").duration_ms == 1450


def test_size_keyframes_and_sound(tmp_path: Path) -> None:
    path = reencode(make_clip(20, width=96, height=64), tmp_path, size=32, interval=5)
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 48, 32)
        packets = [packet for packet in container.demux(stream) if packet.size]
    keyframes = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    assert max(after - before for before, after in zip(keyframes, [*keyframes[1:], 20], strict=True)) <= 5
    assert all(packet.pts == packet.dts for packet in packets), "frames are stored in the order of showing"


def test_equal_videos_give_equal_bytes(tmp_path: Path) -> None:
    clip = make_clip(6)
    assert reencode(clip, tmp_path).read_bytes() == reencode(clip, tmp_path).read_bytes()


def test_a_film_that_lies_on_its_side_is_stored_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((3, 48, 64, 3), np.uint8)
    pixels[:, :, 32:] = 255  # white on the right
    source = io.BytesIO(make_clip(3, frames=pixels))
    turned = io.BytesIO()
    with av.open(source) as given, av.open(turned, "w", format="mp4") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    data = bytearray(turned.getvalue())
    matrix = data.index(b"tkhd") + 4 + 40  # ISO 14496-12: nine 32-bit numbers
    quarter = [0, 0x10000, 0, 0xFFFF0000, 0, 0, 48 << 16, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big") for number in quarter)
    path = reencode(bytes(data), tmp_path, size=48)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        shown = frame.to_ndarray(format="rgb24")[..., 0]
    assert shown.shape == (64, 48)
    assert shown[48:].mean() > 200 > 50 > shown[:16].mean(), "turned clockwise, the right side is below"


def test_a_video_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowProblem, match="cannot be decoded"):
        reencode(make_clip(8)[:900], tmp_path)


@pytest.mark.parametrize("text", ["", "x", "0", "8", "224,0", "224,4,2", "-224"])
def test_other_settings_are_refused(text: str) -> None:
    with pytest.raises(ConversionError, match="--reencode"):
        Reencoding.parse(text)


def test_conversion_stores_what_was_encoded_again(tmp_path: Path) -> None:
    (tmp_path / "film.wmv").write_bytes(make_clip(12, width=96, height=64, container="asf", codec="wmv2"))
    (tmp_path / "large.png").write_bytes(make_image(width=96, height=64))
    (tmp_path / "small.png").write_bytes(make_image(width=40, height=30))
    (tmp_path / "scan.tif").write_bytes(make_image(width=40, height=30, form="tiff"))
    items = [
        llava_item(video="film.wmv", start=1, end=2),
        llava_item(video="film.wmv", start=9, end=10),
        *(llava_item(image=name) for name in ("large.png", "small.png", "scan.tif")),
    ]
    rows = write_json(tmp_path / "rows.json", items)
    convert("llava", rows, tmp_path / "out", "--reencode", "32,4", status=1)
    film, large, small, scan = read_samples(tmp_path / "out")
    assert film.record.meta == {"media": "film.wmv", "width": 48, "height": 32, "duration_ms": 1000}
    assert film.media[0].ending == "mp4"
    assert (film.record.start_ms, film.record.end_ms) == (None, None), "the part was cut out"
    assert [sample.media[0].ending for sample in (large, small, scan)] == ["jpg", "png", "png"]
    assert Image.open(io.BytesIO(large.media[0].content.read())).size == (48, 32)
    assert small.media[0].content.read() == make_image(width=40, height=30)
    assert left_out(tmp_path / "out") == [(1, "wrong start or end")]
    assert not list((tmp_path / "out").glob("*.scratch"))
    assert not list((tmp_path / "out").glob(".*.scratch"))
