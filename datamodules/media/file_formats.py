"""Finds the format of a file from its first bytes, because names and endings are often wrong."""

import re

HEAD_BYTES = 64
"""How many of a file's first bytes are enough for ``format_of``."""

VIDEO_FORMATS = ("MP4", "MOV", "MKV", "WEBM", "AVI", "GIF")
"""Videos that shards hold."""

TEXT_FORMATS = ("a page of text", "a pointer of Git LFS")
"""No media, but often found under the name of a media file."""

_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"....ftypavi[fs]|....ftypmi[fs]1.{0,48}avif", "AVIF"),
    (rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mi[fs]1)", "HEIC"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (rb"8BPS\0[\x01\x02]", "PSD"),
    (rb"P[1-7][ \t\r\n]", "PNM"),
    (rb"%PDF", "PDF"),
    (rb"\0\0\x01\0[^\0]\0", "ICO"),
    (rb"....ftypqt  |....(?:moov|mdat|wide|free|skip|pnot|styp)", "MOV"),
    (rb"....ftyp", "MP4"),
    (rb"\x1a\x45\xdf\xa3.{0,56}webm", "WEBM"),
    (rb"\x1a\x45\xdf\xa3", "MKV"),
    (rb"RIFF....AVI[ X\x19]", "AVI"),
    (rb"\s*(?:\xef\xbb\xbf)?\s*<svg", "SVG"),
    (rb"\s*(?:\xef\xbb\xbf)?\s*<(?i:!doctype|html|head|\?xml)|\s*\{\s*\"", TEXT_FORMATS[0]),
    (rb"version https://git-lfs", TEXT_FORMATS[1]),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _SIGNATURES)


def format_of(head: bytes) -> str | None:
    """Name the format of a file.

    Args:
        head: Its first bytes; ``HEAD_BYTES`` of them are enough.

    Returns:
        The format's name, as Pillow spells it if Pillow has that format, or None for an unknown format.
    """
    return next((name for pattern, name in _PATTERNS if pattern.match(head)), None)
