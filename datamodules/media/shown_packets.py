"""Tells which packets of a video show a frame, for codecs in which some packets show none.

VP8 and VP9 have alternate reference frames: other frames are predicted from them, and they are never shown. A GIF may
have comments after its last picture.
"""

from collections.abc import Callable
from typing import Any


def frame_test(codec: str) -> Callable[[Any], bool] | None:
    """Choose the function that says, for this codec, whether a packet shows a frame.

    Args:
        codec: FFmpeg's name of the decoder.

    Returns:
        A test of PyAV's packets, or None where every packet of the codec shows a frame.
    """
    return _TESTS.get(codec.removeprefix("lib").replace("vpx-vp9", "vp9").replace("vpx", "vp8"))


def _vp8_shows(packet: Any) -> bool:
    """Source: RFC 6386, section 9.1: bit 4 is ``show_frame``."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def _vp9_shows(packet: Any) -> bool:
    """Source: VP9 bitstream specification 0.6, section 6.2 (frame header) and annex B (superframes)."""
    data = memoryview(packet)
    marker = data[-1]
    if marker & 0xE0 == 0xC0:
        index_size = 2 + ((marker >> 3 & 3) + 1) * ((marker & 7) + 1)
        if index_size <= len(data) and data[-index_size] == marker:  # a superframe holds one frame that is shown
            return True
    first = data[0]
    is_profile_3 = first & 0x30 == 0x30
    bits = first << 1 & 0xFF if is_profile_3 else first  # profile 3 has a reserved bit more
    shows_existing, shows = bits & 0x08, bits & 0x02
    return bool(shows_existing or shows)


def _gif_shows(packet: Any) -> bool:
    """Source: GIF89a specification: blocks until an image descriptor, ``0x2C``."""
    data = memoryview(packet)
    position = 0
    if bytes(data[:4]) == b"GIF8" and len(data) > 10:
        flags = data[10]
        position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)  # with the global colour table
    while position < len(data):
        if data[position] == 0x2C:
            return True
        if data[position] != 0x21:
            return False
        position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return False


_TESTS: dict[str, Callable[[Any], bool]] = {"vp8": _vp8_shows, "vp9": _vp9_shows, "gif": _gif_shows}
