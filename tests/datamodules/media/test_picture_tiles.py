"""Pictures in tiles: the pixels are those of transformers' LLaVA-OneVision."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionVideoProcessor

from components.pictures.tile_grid import PictureSize
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.picture_tiles import PictureTiles
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import Augmentation, PixelOptions, PixelTransform
from datamodules.shards.media_range import MediaRange
from datamodules.shards.schema import MediumFacts
from datamodules.shards.shard_reader import RawMedium

SIZES = [(384, 384), (100, 2000), (2000, 100), (50, 40), (500, 333), (1100, 900), (2400, 2500), (1, 700)]
"""Height and width: one tile, very wide, very tall, small, usual, large, larger than the largest grid, a line."""


def draw(height: int, width: int) -> Image.Image:
    """A picture of smooth colours and some noise, which no scaling leaves as it is."""
    generator = np.random.default_rng(height * 10_000 + width)
    rows, columns = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)[None]
    smooth = np.stack([rows + 0 * columns, 0 * rows + columns, (rows + columns) / 2], axis=2)
    noise = generator.integers(0, 56, (height, width, 3))
    return Image.fromarray((smooth + noise).astype(np.uint8))


def read(
    picture: Image.Image, folder: Path, *, is_alone: bool = True, options: PixelOptions | None = None
) -> SampleMedia:
    """Read a picture from a file, as training does."""
    path = folder / "picture.png"
    picture.save(path)
    chosen = options or PixelOptions(384, "stretch", tiles=PictureTiles())
    medium = RawMedium("here", MediaRange(path, 0, path.stat().st_size), "png", MediumFacts(None, None, {}))
    reader = MediaReader(FrameSampling(num_frames=4), PixelTransform(chosen, train=True))
    return reader.read(medium, (0,), is_alone=is_alone)


def original(pictures: list[Image.Image]) -> Tensor:
    """The pixels of transformers' fast image processor for one conversation, 0 to 255."""
    processor = LlavaOnevisionImageProcessor(image_mean=[0.5] * 3)  # published: the grey around pictures
    made = processor([pictures], return_tensors="pt", do_normalize=False, do_rescale=False)
    pixels: Tensor = made["pixel_values"]
    return pixels


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_that_is_alone_has_the_pixels_of_the_original(size: tuple[int, int], tmp_path: Path) -> None:
    picture = draw(*size)
    expected = original([picture])[0]
    found = read(picture, tmp_path)
    assert found.frames.shape == expected.shape
    assert torch.equal(found.frames.float(), expected.float())  # the same resampling of uint8: no tolerance
    assert found.picture_size == size
    assert found.frame_ms.tolist() == [0] * len(expected)


def test_a_picture_beside_others_is_padded_with_grey_to_a_square_as_the_original_does(tmp_path: Path) -> None:
    pictures = [draw(*size) for size in SIZES]
    expected = original(pictures)
    for picture, size, pixels in zip(pictures, SIZES, expected, strict=True):
        found = read(picture, tmp_path, is_alone=False)
        assert torch.equal(found.frames.float(), pixels.float())
        assert found.picture_size == size


def test_a_huge_picture_is_scaled_down_as_it_is_decoded_and_has_the_grid_of_its_true_size(tmp_path: Path) -> None:
    picture = draw(400, 5000).resize((5000, 400))
    expected = original([picture])[0]
    found = read(picture, tmp_path)
    assert found.picture_size == (400, 5000)
    assert found.frames.shape == expected.shape
    difference = (found.frames.float() - expected.float()).abs()
    assert difference.mean() < 2  # scaled twice


def test_frames_of_a_video_are_stretched_as_the_original_does() -> None:
    frames = torch.stack([torch.from_numpy(np.array(draw(90, 160)).copy()).permute(2, 0, 1)] * 2)
    made = LlavaOnevisionVideoProcessor()([frames], return_tensors="pt", do_normalize=False, do_rescale=False)
    found = PixelTransform(PixelOptions(384, "stretch", tiles=PictureTiles()), train=True)(frames, (0,))
    assert torch.equal(found.float(), made["pixel_values_videos"][0].float())


def test_tiles_are_not_augmented(tmp_path: Path) -> None:
    picture = draw(80, 60)
    options = PixelOptions(32, "stretch", Augmentation(1.0, 0.5, 0.3), PictureTiles(2))
    plain = PixelOptions(32, "stretch", tiles=PictureTiles(2))
    assert torch.equal(read(picture, tmp_path, options=options).frames, read(picture, tmp_path, options=plain).frames)


def test_the_orientation_of_the_file_counts(tmp_path: Path) -> None:
    stored, upright = draw(40, 120), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    path = tmp_path / "turned.jpg"
    stored.save(path, exif=exif, quality=95)
    stored.rotate(270, expand=True).save(upright, "PNG")
    medium = RawMedium("here", MediaRange(path, 0, path.stat().st_size), "jpg", MediumFacts(None, None, {}))
    options = PixelOptions(32, "stretch", tiles=PictureTiles(3))
    found = MediaReader(FrameSampling(), PixelTransform(options, train=False)).read(medium, (0,))
    assert found.picture_size == (120, 40)
    assert len(found.frames) == PictureTiles(3).most_frames((120, 40), 32) == 1 + 3


def test_a_picture_is_one_frame_without_tiles(tmp_path: Path) -> None:
    found = read(draw(500, 333), tmp_path, options=PixelOptions(32, "stretch"))
    assert found.frames.shape == (1, 3, 32, 32)
    assert found.picture_size is None
    assert found.num_frames == 1


def test_a_picture_in_tiles_counts_as_one_frame_in_reports(tmp_path: Path) -> None:
    found = read(draw(500, 333), tmp_path)
    assert len(found.frames) > 1
    assert found.num_frames == 1


@pytest.mark.parametrize("size", [*SIZES, None])
def test_no_picture_has_more_frames_than_counted(size: tuple[int, int] | None) -> None:
    tiles = PictureTiles(6)
    known = tiles.most_frames(None if size is None else PictureSize(*size), 384)
    assert known <= tiles.most_frames(None, 384) == 37


def test_no_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="per_side must be positive"):
        PictureTiles(0)
