"""Times as benchmarks write them: seconds, ``m:ss`` or ``h:mm:ss``."""

import re
from typing import Any

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


def to_seconds(time: Any) -> float:
    """Seconds of ``12``, ``"12.5"``, ``1:05`` or ``0:01:05``.

    Raises:
        ValueError: It is no time, or negative.
    """
    text = str(time).strip()
    clock = _CLOCK.fullmatch(text)
    try:
        seconds = float(text) if clock is None else 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no time; expected seconds, m:ss or h:mm:ss") from error
    if not 0 <= seconds < 1e9 or isinstance(time, bool):
        raise ValueError(f"{text[:40]!r} is no time in a video")
    return seconds
