"""Questions about a haystack video and their answers, for each task."""

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
"""Most needles of a video of the task, each on a frame of its own."""

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
        task: Task of the video.
        needles: Its needles, in any order.
        num_frames: Number of its frames.
        key: Its sample key, for the ids of conversations.
    """
    return [
        {
            "id": f"{key}-{category}",
            "category": category,
            "options": list(OPTIONS[category]),
            "turns": [
                {"role": "user", "content": f"<video>\n{QUESTIONS[category]}"},
                {"role": "assistant", "content": answer},
            ],
        }
        for category, answer in _answers(task, needles, num_frames).items()
    ]


def _answers(task: Task, needles: Sequence[Needle], num_frames: int) -> dict[str, str]:
    if task == "order":
        first, last = sorted(needles, key=lambda needle: needle.frame)
        return {"first": first.colour, "last": last.colour}
    if task == "count":
        return {"count": NUMBERS[len(needles)]}
    categories = ("colour", "shape", "place") if num_frames >= _FEWEST_FRAMES_WITH_PLACES else ("colour", "shape")
    if not needles:
        return dict.fromkeys(categories, NO_NEEDLE)
    (needle,) = needles
    answers = {"colour": needle.colour, "shape": needle.shape}
    from_centre = (needle.frame + 0.5) / num_frames - 0.5
    if "place" in categories and abs(from_centre) > _NEITHER:
        answers["place"] = PLACES[int(from_centre > 0)]
    return answers


# In very short videos a model could learn the answer for each frame number, which does not help in longer videos.
_FEWEST_FRAMES_WITH_PLACES = 8
# If the needle is nearer to the middle than this share of the video, "beginning or end" is not asked.
_NEITHER = 0.05
