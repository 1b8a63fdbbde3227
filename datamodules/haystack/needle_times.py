"""When the needles of a video are shown: inside the video, one after another, one of them at a given depth."""

from collections.abc import Sequence

import numpy as np


def needle_start_ms(depth: float, duration_ms: int, needle_ms: int) -> int:
    """Start of a needle at a depth: at 0 it begins with the video, at 1 it ends with the video.

    Args:
        depth: Share of the video that lies before the needle, from 0 to 1, of what the needle leaves free.
        duration_ms: Length of the video.
        needle_ms: Length of the needle; a video that is shorter shows it all the time.
    """
    return round(depth * max(0, duration_ms - needle_ms))


def most_needles(duration_ms: int, needle_ms: int) -> int:
    """Needles that always fit into a video, at whatever depth one of them is."""
    return max(1, duration_ms // needle_ms - 1)


def place_needles(
    depth: float, number: int, duration_ms: int, needle_ms: int, random: np.random.Generator
) -> tuple[int, list[int]]:
    """Choose when needles are shown. They do not overlap, and where there is room, something is between them.

    Args:
        depth: Where one of the needles is.
        number: Needles in all.
        duration_ms: Length of the video.
        needle_ms: Length of each needle.
        random: Chooses the others' times.

    Returns:
        Start of the needle at the depth; starts of the others, in random order.

    Raises:
        ValueError: The video is too short, see ``most_needles``.
    """
    start = needle_start_ms(depth, duration_ms, needle_ms)
    others = number - 1
    for step in (2 * needle_ms, needle_ms):
        slots = _free_slots(start, duration_ms, needle_ms, step)
        if len(slots) >= others:
            return start, [int(slot) for slot in random.choice(slots, others, replace=False)] if others else []
    raise ValueError(
        f"{number} needles of {needle_ms / 1000:g} s do not fit into a video of {duration_ms / 1000:g} s, but "
        f"{most_needles(duration_ms, needle_ms)} would; use longer videos, or fewer or shorter needles"
    )


def _free_slots(start: int, duration_ms: int, needle_ms: int, step: int) -> Sequence[int]:
    before = range(start - step, -1, -step)
    after = range(start + step, duration_ms - needle_ms + 1, step)
    return [*before, *after]
