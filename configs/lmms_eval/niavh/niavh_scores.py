"""Functions of the tasks of lmms-eval in this folder. They need nothing of this project, so any model can run them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("niavh")  # in the working directory, as in the YAML files
_ABOUT = ("id", "group", "task", "needle", "length", "depth")


def video(doc: Mapping[str, Any]) -> list[str]:
    """The video of a question."""
    return [str(FOLDER / doc["video"])]


def score_text(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score a generated answer. One that names no option is wrong."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    chosen = extract_mcq_answer(results[0], choices=list(doc["choices"]))
    return _scored(doc, results[0], float(chosen == doc["choices"][doc["answer"]]))


def score_losses(doc: Mapping[str, Any], results: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Score the option with the lowest loss."""
    losses = [float(loss) for loss, _ in results]
    return _scored(doc, losses, float(losses.index(min(losses)) == doc["answer"]))


def share_of_questions(results: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers."""
    return sum(each["score"] for each in results) / len(results)


def share_of_videos(results: Sequence[Mapping[str, Any]]) -> float:
    """Share of videos whose questions, one for each order of the options, all have the right answer."""
    videos: defaultdict[str, float] = defaultdict(lambda: 1.0)
    for each in results:
        videos[each["group"]] = min(videos[each["group"]], each["score"])
    return sum(videos.values()) / len(videos)


def _scored(doc: Mapping[str, Any], answer: Any, score: float) -> dict[str, Any]:
    scored = {**{name: doc[name] for name in _ABOUT}, "answer": answer, "score": score}
    return {"niavh_questions": scored, "niavh_videos": scored}
