"""Pixels are shown as players show them: turned, mirrored, in their colours, on white."""

from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.convert.video_check import probe_video
from datamodules.media.frame_pixels import Orientation, PixelReader, frame_orientation
from datamodules.media.frame_sampling import FrameSampling
from tests.datamodules.made_videos import EIGHT_MATRICES, Form, as_stored, make_video, numbered_frame, numbers, turned
from tests.datamodules.video_files import sample_frames


@pytest.mark.parametrize("matrix", EIGHT_MATRICES, ids=str)
def test_turns_and_mirrors_are_made_as_players_make_them(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    data = turned(make_video(Form()), matrix)
    pixels = sample_frames(data, FrameSampling(3)).pixels
    assert numbers(as_stored(pixels, matrix)) == [2, 6, 10]
    (tmp_path / "film").write_bytes(data)
    assert probe_video(tmp_path / "film")[:2] == pixels.shape[2:0:-1]


def test_a_display_matrix_puts_each_corner_where_its_definition_says() -> None:
    corner = np.zeros((4, 6, 3), dtype=np.uint8)
    corner[0, 0] = 1  # top left
    for a, b, c, d in EIGHT_MATRICES:
        shown = Orientation.of_matrix(np.array([a, b, 0, c, d, 0, 0, 0, 1], dtype=np.int32)).apply(corner)
        height, width = shown.shape[:2]
        # The stored corner lies at (0, 0); the shown picture is moved so that it starts there again.
        row = 0 if min(b, d) >= 0 else height - 1
        column = 0 if min(a, c) >= 0 else width - 1
        assert shown[row, column, 0] == 1, (a, b, c, d)
    scaled = Orientation.of_matrix(np.array([3 << 15, 0, 0, 0, 1 << 15, 0, 0, 0, 1 << 30], dtype=np.int32))
    assert scaled == Orientation()


@pytest.mark.parametrize("turn", range(4))
def test_a_frame_with_side_data_that_pyav_does_not_name_is_turned(turn: int) -> None:
    class Frame:
        rotation = (0, 90, 180, -90)[turn]  # counterclockwise

        @property
        def side_data(self) -> None:
            raise ValueError("31 is not a valid Type")

    pixels = numbered_frame(5)
    assert np.array_equal(frame_orientation(Frame()).apply(pixels), np.rot90(pixels, turn))


def test_unusual_colour_matrices_are_read_or_named() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, (90, 120, 140), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    plain = PixelReader().read(frame, 16, 16, Orientation())
    frame.colorspace = 3  # reserved: it tells nothing
    assert np.array_equal(PixelReader().read(frame, 16, 16, Orientation()), plain)
    frame.colorspace = 10  # BT.2020 with constant luminance
    assert PixelReader().read(frame, 16, 16, Orientation()).shape == (16, 16, 3)
    frame.colorspace = 8
    with pytest.raises(ValueError, match="its colour matrix YCgCo is not converted"):
        PixelReader().read(frame, 16, 16, Orientation())


def test_what_is_transparent_is_white() -> None:
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[:8, :, 3] = 255
    pixels[12:, :, 3] = 128
    shown = PixelReader().read(av.VideoFrame.from_ndarray(pixels, format="rgba"), 16, 16, Orientation())
    assert [int(shown[row].mean()) for row in (0, 9, 15)] == [0, 255, 127]
    assert shown.flags.c_contiguous
