"""Pictures written byte by byte, or with odd metadata, so that what they show is known without reading them."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""PNG's colour types."""

Samples = NDArray[np.integer]


def png(
    samples: Samples,
    depth: int,
    colour_type: int,
    *,
    palette: NDArray[np.uint8] | None = None,
    transparency: bytes = b"",
    before: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """A PNG file.

    Args:
        samples: ``[H, W]`` or ``[H, W, C]``, of ``depth`` bits each.
        depth: Bits of a sample.
        colour_type: As PNG numbers them.
        palette: ``[N, 3]``.
        transparency: What the chunk tRNS holds.
        before: Chunks before the pixels.
        behind: Chunks behind them.
    """
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1).astype(np.uint16)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), before]
    parts += [] if palette is None else [chunk(b"PLTE", palette.tobytes())]
    parts += [chunk(b"tRNS", transparency)] if transparency else []
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))), behind, END])


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


END = chunk(b"IEND", b"")


def on_white(pixels: NDArray[np.uint8], alpha: NDArray[np.number]) -> NDArray[np.float64]:
    """Colours ``[H, W, 3]`` with opacity ``[H, W]`` of 0 to 1 on white."""
    return pixels * alpha[..., None] + 255 * (1 - alpha[..., None])


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF with entries of tag, type, count and four bytes of value or place."""
    entry = b"".join(struct.pack(f"{order}HHI", *numbers) + value.ljust(4, b"\0") for *numbers, value in entries)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(entries)) + entry + bytes(4)


def turned(value: int, order: str = "<") -> bytes:
    """EXIF data with this orientation."""
    return exif((0x112, 3, 1, struct.pack(f"{order}H", value)), order=order)


def jpeg_segment(number: int, data: bytes) -> bytes:
    """An APP segment of a JPEG."""
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(data) + 2) + data


def with_exif(picture: bytes, data: bytes) -> bytes:
    """A JPEG, PNG or WebP file with this EXIF, however wrong it is."""
    if picture.startswith(b"\xff\xd8"):
        return picture[:2] + jpeg_segment(1, b"Exif\0\0" + data) + picture[2:]
    if picture.startswith(b"\x89PNG"):
        return picture[:33] + chunk(b"eXIf", data) + picture[33:]
    target = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.save(target, "webp", lossless=True, exif=data, exact=True)
    return target.getvalue()


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What is shown of stored pixels ``[H, W, 3]``.

    Source: EXIF 2.32, tag Orientation: which side of the picture the stored first row and first column are.
    """
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels[::-1].transpose(1, 0, 2),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: pixels[:, ::-1].transpose(1, 0, 2),
    }[orientation]
