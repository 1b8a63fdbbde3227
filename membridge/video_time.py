"""Times in a video as people write them: seconds, ``mm:ss`` or ``h:mm:ss``."""

import math
import re

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):([0-5]?\d(?:\.\d+)?)")


def to_milliseconds(time: str | float) -> int:
    """Milliseconds of a time such as ``90``, ``1:30``, ``0:01:30.5``.

    Raises:
        ValueError: It is no time, or negative.
    """
    text = str(time).strip()
    parts = _CLOCK.fullmatch(text)
    try:
        if parts is not None:
            hours, minutes, seconds = int(parts[1] or 0), int(parts[2]), float(parts[3])
        else:
            hours, minutes, seconds = 0, 0, float(text)
    except ValueError:
        seconds = math.nan
        hours = minutes = 0
    if not 0 <= seconds < math.inf or isinstance(time, bool):
        raise ValueError(f"{time!r} is no time in a video; write seconds (90), mm:ss (1:30) or h:mm:ss (0:01:30)")
    return round(1000 * (3600 * hours + 60 * minutes + seconds))
