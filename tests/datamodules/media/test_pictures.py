import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules.errors import BrokenMediaError, OversizedMediaError
from datamodules.media.decoded_frames import DecodedFrames, FrameSize
from datamodules.media.pictures import read_image as read_image_of_file
from datamodules.media.transforms import PixelOptions, PixelTransform
from tests.fixtures_data import make_image, natural_frames


def read_image(data: bytes, size: FrameSize = FrameSize(), where: str = "image") -> DecodedFrames:  # noqa: B008
    return read_image_of_file(io.BytesIO(data), size=size, where=where)


def encoded(pixels: np.ndarray, form: str = "png") -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, quality=95)
    return target.getvalue()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_an_image_is_a_video_of_one_frame(form: str) -> None:
    result = read_image(make_image(77, form=form))
    assert result.pixels.shape == (1, 48, 64, 3)
    assert result.pixels.dtype == np.uint8
    assert result.pixels.mean() == pytest.approx(77, abs=2)
    assert result.frame_ms.tolist() == [0]


def test_images_of_any_colour_form_become_rgb() -> None:
    for mode in ("1", "L", "LA", "RGBA", "P", "I;16", "CMYK"):
        target = io.BytesIO()
        Image.new(mode, (8, 8)).save(target, "png" if mode != "CMYK" else "jpeg")
        assert read_image(target.getvalue()).pixels.shape == (1, 8, 8, 3)


def test_a_broken_image_is_an_error_with_its_key() -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for broken in (b"", b"<svg/>", data[:500], data[:-3000]):
        with pytest.raises(BrokenMediaError, match="key 'a': the picture cannot be decoded"):
            read_image(broken, where="key 'a'")


def test_max_pixels_bounds_a_picture_before_it_is_decoded() -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "png")
    assert len(bomb.getvalue()) < 20_000
    with pytest.raises(OversizedMediaError, match="key 'a': its frames of 9000 x 9000 pixels are larger than"):
        read_image(bomb.getvalue(), where="key 'a'")
    assert read_image(make_image(), FrameSize(max_pixels=64 * 48)).pixels.shape == (1, 48, 64, 3)
    with pytest.raises(OversizedMediaError):
        read_image(make_image(), FrameSize(max_pixels=64 * 48 - 1))


def test_the_picture_library_s_own_bound_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OversizedMediaError, match="decompression bomb"):
        read_image(make_image())


@pytest.mark.parametrize(("form", "shape"), [("png", (400, 600)), ("jpeg", (400, 600)), ("jpeg", (720, 512))])
def test_a_large_picture_is_scaled_as_the_transform_would(form: str, shape: tuple[int, int]) -> None:
    data = encoded(natural_frames(1, *shape)[0], form)
    transform = PixelTransform(PixelOptions(96), train=False)
    small = read_image(data, transform.frame_size(10**7)).pixels
    assert min(small.shape[1:3]) == 96
    ours, exact = (
        transform(torch.tensor(pixels).permute(0, 3, 1, 2), (0,)).float() for pixels in (small, read_image(data).pixels)
    )
    assert (ours - exact).abs().mean() < 1.0


def test_a_picture_up_to_one_and_a_half_times_its_goal_is_left_as_it_is() -> None:
    shorter, longer = FrameSize(side=50), FrameSize(side=50, measured="longer")
    assert read_image(make_image(width=75, height=50), shorter).pixels.shape == (1, 50, 75, 3)
    assert read_image(make_image(width=90, height=76), shorter).pixels.shape == (1, 50, 59, 3)
    assert read_image(make_image(width=50, height=75), longer).pixels.shape == (1, 75, 50, 3)
    assert read_image(make_image(width=50, height=76), longer).pixels.shape == (1, 50, 33, 3)
    assert read_image(make_image(width=20, height=30), shorter).pixels.shape == (1, 30, 20, 3)


def test_a_lying_photo_is_turned_upright() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, :30] = 255
    target, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(target, "jpeg", exif=exif)
    with Image.open(target) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == (60, 40, 3)
    assert np.array_equal(read_image(target.getvalue()).pixels[0], expected)
    assert read_image(target.getvalue(), FrameSize(side=10)).pixels.shape == (1, 15, 10, 3)
