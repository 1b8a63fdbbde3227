"""From a picture's bytes to a video of one frame."""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from datamodules.decoded_frames import DecodedFrames, FrameSize, scale_down
from datamodules.errors import BrokenMediaError, OversizedMediaError


def read_image(
    file: BinaryIO,
    *,
    size: FrameSize = FrameSize(),  # noqa: B008  immutable
    where: str = "image",
) -> DecodedFrames:
    """Decode a JPEG, PNG or WebP picture as a video of one frame.

    A JPEG that is more than twice as large as needed is decoded at a half, a quarter or an eighth of its size, still
    at least twice as large as needed, and scaled down from there.

    Args:
        file: The picture's file.
        size: Largest picture, and how large it needs to be.
        where: Shard and key, for messages.

    Returns:
        One frame, at time 0.

    Raises:
        BrokenMediaError: The bytes are no such picture, or a picture of absurd size.
    """
    try:
        with Image.open(file, formats=("JPEG", "PNG", "WEBP")) as image:
            size.check(*image.size, where)
            width, height = size.scaled(*image.size)
            image.draft("RGB", (2 * width, 2 * height))
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # [H, W, 3]
    except Image.DecompressionBombError as error:
        raise OversizedMediaError(f"{where}: the picture cannot be decoded ({error}); leave the sample out") from error
    except BrokenMediaError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenMediaError(
            f"{where}: the picture cannot be decoded ({error}); fetch it again or leave the sample out"
        ) from error
    return DecodedFrames(scale_down(pixels, size)[None], np.zeros(1, dtype=np.int64))
