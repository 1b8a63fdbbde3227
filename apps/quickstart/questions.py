"""What is asked about a haystack video, and what is right: one set of questions for each task."""

from collections.abc import Sequence
from typing import Any, Literal

from apps.quickstart.needles import COLOURS, SHAPES, Needle

Task = Literal["needle", "order", "count"]
"""``needle``: one shape or none; which colour, which shape, where. ``order``: two shapes of different colours; which
colour came first, which last. ``count``: none to three shapes; how many."""

TASKS: tuple[Task, ...] = ("needle", "order", "count")
NO_NEEDLE = "none"
PLACES = ("beginning", "end")
NUMBERS = ("zero", "one", "two", "three")
MAX_NEEDLES: dict[Task, int] = {"needle": 1, "order": 2, "count": len(NUMBERS) - 1}
"""Most needles that a video of the task shows, each on a frame of its own."""

QUESTIONS = {
    "colour": "Which colour was shown?",
    "shape": "Which shape was shown?",
    "place": "Was it at the beginning or at the end?",
    "first": "Which colour came first?",
    "last": "Which colour came last?",
    "count": "How many shapes were shown?",
}
OPTIONS = {
    "colour": (*COLOURS, NO_NEEDLE),
    "shape": (*SHAPES, NO_NEEDLE),
    "place": (*PLACES, NO_NEEDLE),
    "first": tuple(COLOURS),
    "last": tuple(COLOURS),
    "count": NUMBERS,
}


def conversations(task: Task, needles: Sequence[Needle], num_frames: int, key: str) -> list[dict[str, Any]]:
    """The questions about a video, with their answers.

    Args:
        task: What the video was made for.
        needles: What it shows, in any order.
        num_frames: Its frames.
        key: Its sample key, for the conversations' ids.
    """
    return [
        {
            "id": f"{key}-{kind}",
            "kind": kind,
            "options": list(OPTIONS[kind]),
            "turns": [
                {"role": "user", "content": f"<video>\n{QUESTIONS[kind]}"},
                {"role": "assistant", "content": answer},
            ],
        }
        for kind, answer in _answers(task, needles, num_frames).items()
    ]


def _answers(task: Task, needles: Sequence[Needle], num_frames: int) -> dict[str, str]:
    if task == "order":
        first, last = sorted(needles, key=lambda needle: needle.frame)
        return {"first": first.colour, "last": last.colour}
    if task == "count":
        return {"count": NUMBERS[len(needles)]}
    if not needles:
        return dict.fromkeys(("colour", "shape", "place"), NO_NEEDLE)
    (needle,) = needles
    answers = {"colour": needle.colour, "shape": needle.shape}
    # In the middle third, "beginning or end" has no answer, so it is not asked.
    centre = (needle.frame + 0.5) / num_frames
    if centre < 1 / 3:
        answers["place"] = PLACES[0]
    elif centre > 2 / 3:
        answers["place"] = PLACES[1]
    return answers
