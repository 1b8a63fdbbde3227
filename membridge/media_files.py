"""Reads the file of a video or picture as the frames that a model was trained on."""

import re
import shlex
from pathlib import Path

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from datamodules.media.decoding import Decoding
from datamodules.media.file_formats import TEXT_FORMATS, VIDEO_FORMATS, format_of
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.picture_tiles import PictureTiles
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.media_range import MediaRange
from datamodules.shards.schema import MediumFacts
from datamodules.shards.shard_reader import RawMedium

_HEAD_BYTES = 512  # a tar has its mark behind the first name
_TAR = (257, b"ustar")


def read_media_file(
    path: Path,
    settings: FrameSettings,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  frozen
) -> SampleMedia:
    """Decode a file as in training. Decoding runs in a process of its own, which a damaged file cannot take along.

    Args:
        path: The file.
        settings: Frame settings of the model.
        start_ms: Start of the part to use; None = from the beginning.
        end_ms: End of that part; None = to the end.
        decoding: Limits of time and memory.

    Returns:
        uint8 frames ``[T, 3, size, size]`` and their times. Where the model shows tiles, a picture is the whole picture
        and its tiles.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: The model reads cached features, no pixels; or the part to use has no beginning before its end.
        datamodules.errors.SampleError: The file cannot be decoded.
    """
    if settings.size is None:
        raise ValueError(
            "this model reads cached features of frames, no pixels, so it cannot read a file. Export it with the "
            "config of the encoder that made the features: python -m lightning_modules.export CKPT OUT --config CONFIG"
        )
    if (start_ms or 0) < 0 or (end_ms is not None and end_ms <= (start_ms or 0)):
        raise ValueError(f"start_ms is {start_ms} and end_ms {end_ms}; expected 0 <= start_ms < end_ms")
    found = _format_of_file(path)
    sampling = FrameSampling(settings.num_frames, settings.fps, settings.max_frames)
    ending = "mp4" if found in VIDEO_FORMATS else "png"  # tells videos from pictures; the content says the rest
    content = MediaRange(path.absolute(), 0, path.stat().st_size)
    medium = RawMedium(str(path), content, ending, MediumFacts(start_ms, end_ms, {}))
    tiles = None if settings.tiles_per_side is None else PictureTiles(settings.tiles_per_side)
    transform = PixelTransform(PixelOptions(settings.size, settings.fit, tiles=tiles), train=False)
    return MediaReader(sampling, transform, decoding).read(medium, seed=())


def _format_of_file(path: Path) -> str:
    """Format of a video or picture, from its first bytes.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        BrokenMediaError: It is something else.
    """
    if re.match(r"\w[\w+.-]+:/", str(path)):  # Path makes one slash of two
        raise BrokenMediaError(f"{path} is an address; download the file and give its path")
    if path.is_dir():
        raise BrokenMediaError(f"{path} is a folder; give the file of a video or picture")
    if path.exists() and not path.is_file():
        raise BrokenMediaError(f"{path} is a device or pipe, not a file; give the file of a video or picture")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()})")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[_TAR[0] :].startswith(_TAR[1]):
        quoted = shlex.quote(str(path))
        raise BrokenMediaError(
            f"{path} is a shard (a tar), not one video; check it with: python -m datamodules.validate {quoted}. To ask "
            f"about a video in it, extract that first: tar -xf {quoted}"
        )
    found = format_of(head)
    if found is None or found in TEXT_FORMATS:
        unknown = "has a format that is none of a video or picture" if head else "is empty"
        what = unknown if found is None else f"is {found}, neither a video nor a picture"
        raise BrokenMediaError(f"{path} {what}; give the file of a video or picture")
    return found
