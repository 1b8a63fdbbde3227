"""Reads the file of a video or picture as the frames that a model was trained on."""

from pathlib import Path

import torch

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.file_formats import HEAD_BYTES, TEXT_FORMATS, VIDEO_FORMATS, format_of
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.media_range import MediaRange


def read_media_file(
    path: Path, settings: FrameSettings, *, start_ms: int | None = None, end_ms: int | None = None
) -> SampleMedia:
    """Decode a file as in training. Decoding runs in a process of its own, which a damaged file cannot take along.

    Args:
        path: The file.
        settings: Frame settings of the model.
        start_ms: Start of the part to use; None = from the beginning.
        end_ms: End of that part; None = to the end.

    Returns:
        uint8 frames ``[T, 3, size, size]`` and their times.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The model reads cached features, no pixels; or the part to use has no beginning before its end.
        datamodules.errors.SampleError: The file cannot be decoded.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()})")
    if settings.size is None:
        raise ValueError(
            "this model reads cached features of frames, no pixels, so it cannot read a file. Export it with the "
            "config of the encoder that made the features: python -m lightning_modules.export CKPT OUT --config CONFIG"
        )
    transform = PixelTransform(PixelOptions(settings.size, settings.fit), train=False)
    decoding = Decoding()
    if (start_ms or 0) < 0 or (end_ms is not None and end_ms <= (start_ms or 0)):
        raise ValueError(f"start_ms is {start_ms} and end_ms {end_ms}; expected 0 <= start_ms < end_ms")
    with path.open("rb") as file:
        found = format_of(head := file.read(HEAD_BYTES))
    if found is None or found in TEXT_FORMATS:
        unknown = "has a format that is none of a video or picture" if head else "is empty"
        what = unknown if found is None else f"is {found}, neither a video nor a picture"
        raise BrokenMediaError(f"{path} {what}; give the file of a video or picture")
    request = MediaRequest(
        MediaRange(path.absolute(), 0, path.stat().st_size),
        found not in VIDEO_FORMATS,
        FrameSampling(settings.num_frames, settings.fps, settings.max_frames),
        transform.frame_size(decoding.max_pixels),
        str(path),
        start_ms,
        end_ms,
    )
    decoded = decode_media(request, decoding)
    frames = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2)  # [T, 3, H, W]
    return SampleMedia(transform(frames, ()).contiguous(), torch.from_numpy(decoded.frame_ms))
