"""Removes metadata from a picture that Pillow refuses because of its metadata.

Pillow reads all metadata when it opens a picture and refuses good pictures with long texts, a
truncated resolution and so on. Every viewer shows such pictures.
"""

from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND"})
"""The chunks that decide how a PNG picture looks: pixels, orientation and frames."""

_JPEG_START, _JPEG_SCAN = 0xD8, 0xDA
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE}) - {0xEE}  # all but APP14, which holds the colour space


def without_metadata(data: bytes) -> bytes | None:
    """Remove everything from a picture's file that does not change how it looks.

    Args:
        data: A whole JPEG or PNG file, or anything else.

    Returns:
        The file without metadata other than EXIF, which holds the orientation; None where there is nothing to remove.

    Source: W3C, Portable Network Graphics (Third Edition), 5.3; ITU-T T.81, B.1.1.
    """
    if data.startswith(_PNG_SIGNATURE):
        bare = _PNG_SIGNATURE + b"".join(chunk for chunk in _png_chunks(data) if chunk[4:8] in _PNG_CHUNKS)
    elif data.startswith(bytes([0xFF, _JPEG_START])):
        bare = b"".join(part for part in _jpeg_parts(data) if not _is_jpeg_metadata(part))
    else:
        return None
    return bare if len(bare) < len(data) else None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    start = len(_PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])  # length, name and checksum have 4 bytes each
        yield data[start:end]
        start = end


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The segments before the first scan, then the rest as one part."""
    yield data[:2]
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _JPEG_SCAN:
        if data[start + 1] == 0xFF:  # there may be fill bytes before a marker
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        yield data[start:end]
        start = end
    yield data[start:]


def _is_jpeg_metadata(part: bytes) -> bool:
    return part[:1] == b"\xff" and part[1:2] != b"" and part[1] in _JPEG_METADATA and part[4:10] != b"Exif\0\0"
