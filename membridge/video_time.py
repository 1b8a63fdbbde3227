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


def to_clock(milliseconds: int) -> str:
    """A time such as ``0:07.5`` or ``1:02:03.0``, to a tenth of a second; ``to_milliseconds`` reads it."""
    tenths = round(milliseconds / 100)
    seconds, tenth = divmod(tenths, 10)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    clock = f"{minute}:{second:02}.{tenth}"
    return f"{hours}:{minute:02}:{second:02}.{tenth}" if hours else clock
