import pytest
import torch

from datamodules.media.transforms import Augmentation, PixelOptions, PixelTransform

ALL = Augmentation(horizontal_flip=0.5, color_jitter=0.4, crop_scale=0.3)


def picture(height: int, width: int) -> torch.Tensor:
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 255, width)[None].expand(height, width)
    return torch.stack([rows, columns, rows]).to(torch.uint8)[None]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (32, 32), (1, 300), (33, 31)])
def test_any_size_becomes_the_asked_square(fit: str, shape: tuple[int, int]) -> None:
    result = PixelTransform(PixelOptions(32, fit), train=False)(picture(*shape), (0,))  # type: ignore[arg-type]
    assert result.shape == (1, 3, 32, 32)
    assert result.dtype == torch.uint8


def test_the_right_size_is_left_as_it_is() -> None:
    frames = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(PixelTransform(PixelOptions(32), train=False)(frames, (0,)), frames)


def test_crop_keeps_the_centre_and_pad_keeps_everything() -> None:
    frames = torch.zeros(1, 3, 32, 96, dtype=torch.uint8)
    frames[..., 32:64] = 200
    cropped = PixelTransform(PixelOptions(32, "crop"), train=False)(frames, (0,))
    assert (cropped == 200).all()
    padded = PixelTransform(PixelOptions(32, "pad"), train=False)(torch.full_like(frames, 200), (0,))
    rows = padded.float().mean(dim=(0, 1, 3))
    assert (rows[:10] == 0).all()
    assert (rows[-10:] == 0).all()
    assert (rows[11:21] == 200).all()


def test_stretch_keeps_everything_and_fills_the_square() -> None:
    frames = torch.zeros(1, 3, 32, 96, dtype=torch.uint8)
    frames[..., 48:] = 200
    stretched = PixelTransform(PixelOptions(32, "stretch"), train=False)(frames, (0,))
    assert (stretched[..., :14] == 0).all()
    assert (stretched[..., 18:] == 200).all()


def test_frames_to_stretch_are_decoded_with_both_sides_large_enough() -> None:
    width, height = PixelTransform(PixelOptions(32, "stretch"), train=False).frame_size(10**6).scaled(301, 97)
    assert min(width, height) == 32


def test_augmentation_is_the_same_for_all_frames_and_fixed_by_the_seed() -> None:
    transform = PixelTransform(PixelOptions(32, augmentation=ALL), train=True)
    video = picture(48, 64).expand(4, -1, -1, -1)
    results = [transform(video, (7, position)) for position in range(8)]
    assert all((result == result[0]).all() for result in results)
    assert torch.equal(transform(video, (7, 3)), results[3])
    assert torch.equal(transform(video[:1], (7, 3)), results[3][:1])
    assert len({result.numpy().tobytes() for result in results}) > 4


def test_augmentation_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    PixelTransform(PixelOptions(32, augmentation=ALL), train=True)(picture(48, 64), (1, 2))
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_does_not_augment() -> None:
    frames = picture(48, 64)
    plain = PixelTransform(PixelOptions(32), train=False)(frames, (0,))
    assert torch.equal(PixelTransform(PixelOptions(32, augmentation=ALL), train=False)(frames, (5,)), plain)
    assert torch.equal(PixelTransform(PixelOptions(32), train=True)(frames, (5,)), plain)


@pytest.mark.parametrize(
    ("option", "index"), [(Augmentation(horizontal_flip=1.0), 0), (Augmentation(color_jitter=0.5), 1)]
)
def test_each_augmentation_does_its_part(option: Augmentation, index: int) -> None:
    frames = picture(32, 32)
    result = PixelTransform(PixelOptions(32, augmentation=option), train=True)(frames, (0,))
    assert torch.equal(result, frames.flip(-1)) == (index == 0)
    assert not torch.equal(result, frames)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(96, 128), (128, 96), (301, 97)])
def test_frames_that_the_decoder_scaled_are_scaled_no_more(fit: str, shape: tuple[int, int]) -> None:
    transform = PixelTransform(PixelOptions(32, fit), train=False)  # type: ignore[arg-type]
    width, height = transform.frame_size(10**6).scaled(shape[1], shape[0])
    assert (min if fit == "crop" else max)(width, height) == 32
    small = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    top, left = (height - 32) // 2, (width - 32) // 2
    result = transform(small, (0,))
    if fit == "crop":
        assert any(
            torch.equal(result, small[..., y : y + 32, x : x + 32]) for y in (top, top + 1) for x in (left, left + 1)
        )
    else:
        assert result.long().sum() == small.long().sum()


def test_random_crops_are_cut_from_frames_large_enough_for_the_smallest() -> None:
    for scale in (0.0, 0.08, 0.5, 0.99):
        options = PixelOptions(32, augmentation=Augmentation(crop_scale=scale))
        assert PixelTransform(options, train=False).frame_size(9) == (9, 32, "shorter")
        size = PixelTransform(options, train=True).frame_size(9)
        assert size.side is not None
        smallest_side = (scale * size.side**2 * 3 / 4) ** 0.5  # of a crop of a square frame
        assert smallest_side >= 32 or scale == 0
        assert size.side < 32 * 120


def test_a_thin_frame_is_cut_before_it_is_enlarged() -> None:
    thin = torch.randint(0, 256, (1, 3, 2, 60_000), dtype=torch.uint8)
    result = PixelTransform(PixelOptions(32), train=False)(thin, (0,))
    assert result.shape == (1, 3, 32, 32)
    middle = PixelTransform(PixelOptions(32), train=False)(thin[..., 29_992:30_008], (0,))
    assert torch.equal(result, middle)  # what is cut away first never showed


@pytest.mark.parametrize("make", [lambda: PixelOptions(0), lambda: Augmentation(horizontal_flip=2.0)])
def test_senseless_options_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must"):
        make()  # type: ignore[operator]
