"""Reads the image size and the pixel normalisation of a checkpoint from its image processor's settings."""

from typing import Any, NamedTuple

from transformers.image_processing_base import ImageProcessingMixin

_RESCALE_FACTOR = 1 / 255  # the default in older image processor files


class ImageSettings(NamedTuple):
    """Image size and pixel normalisation of a vision model."""

    size: int  # side of the square image, pixels
    scales: tuple[float, float, float]  # normalised = pixel * scale + shift, one each for red, green and blue
    shifts: tuple[float, float, float]


def read_image_settings(path: str) -> ImageSettings:
    """Read size, rescaling, mean and standard deviation of a checkpoint.

    Args:
        path: Folder or hub name of the checkpoint.

    Returns:
        The settings.

    Raises:
        ValueError: The file is missing, cannot be read, or has no such value. Default values would silently change all
            features.
    """
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError as error:
        raise ValueError(
            f"{path}: no preprocessor_config.json could be read ({error}). It holds the mean, standard deviation and "
            "size that the checkpoint was trained with; add the file that was published with the weights"
        ) from error
    return ImageSettings(_square_size(settings, path), *_scales_and_shifts(settings, path))


def _square_size(settings: dict[str, Any], path: str) -> int:
    is_cropped = "crop_size" in settings and settings.get("do_center_crop", True)
    key = "crop_size" if is_cropped and settings["crop_size"] is not None else "size"
    size = settings.get(key)
    if isinstance(size, dict):
        sides = {int(side) for side in size.values() if side is not None}
    elif isinstance(size, list | tuple):
        sides = {int(side) for side in size}
    else:
        sides = set() if size is None else {int(size)}
    if len(sides) != 1:
        raise ValueError(f"{path}: {key!r} of preprocessor_config.json names no square image, got {size!r}")
    return sides.pop()


def _scales_and_shifts(
    settings: dict[str, Any], path: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    factor = float(settings.get("rescale_factor", _RESCALE_FACTOR)) if settings.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", True):
        mean, std = (_three_numbers(settings, key, path) for key in ("image_mean", "image_std"))
    red, green, blue = ((factor / deviation, -centre / deviation) for centre, deviation in zip(mean, std, strict=True))
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _three_numbers(settings: dict[str, Any], key: str, path: str) -> tuple[float, float, float]:
    values = settings.get(key)
    if values is None or len(values) != 3:
        raise ValueError(f"{path}: {key!r} of preprocessor_config.json must be three numbers, got {values!r}")
    return values[0], values[1], values[2]
