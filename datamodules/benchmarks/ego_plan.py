"""EgoPlan-Bench (Chen et al., 2023): which action comes next, after the clips of the last actions and a last frame.

The model does not see the options. The one that it finds most likely as the answer, by the mean over its tokens, is
chosen (``chosen_by: text``).

Source: https://github.com/ChenYi99/EgoPlan, ``README.md`` (fields) and ``egoplan_video_processor.py`` (clips).
"""

import math
from typing import Literal

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.item import LETTERS, BenchmarkItem, MediaPart, Problem
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import Draft, QuestionTable
from datamodules.benchmarks.row_texts import frame_of, text_of

EPIC_FPS = 60.0
EGO4D_FPS = 30.0
"""Frames in a second: what the numbers of frames count."""

_PROGRESS = "task_progress_metadata"


class EgoPlan(QuestionTable):
    """Reads EgoPlan's validation set: ``choice_a`` to ``choice_d``, and ``answer``, the text of the right one.

    Args:
        questions: File of the questions; from the benchmark's folder on.
        videos: Folder of the media; from the benchmark's folder on.
        folder: The benchmark's folder, below that of all benchmarks.
        chosen_by: See ``Benchmark``.
        most_items: See ``Benchmark``.
        published_items: Questions in the published file; another number is a problem.
        epic_folder: Folder of Epic-Kitchens, with folders of frames; from ``videos`` on.
        ego4d_folder: Folder of Ego4D's videos; from ``videos`` on.
        num_clips: Most clips of a question: those of its last actions.

    Raises:
        ValueError: ``num_clips`` is not positive.
    """

    expected_answer: Form = "text"

    def __init__(
        self,
        questions: str = "EgoPlan_validation.json",
        videos: str = ".",
        folder: str = "",
        chosen_by: Literal["letter", "text"] = "text",
        most_items: int | None = None,
        published_items: int | None = None,
        epic_folder: str = "EPIC-KITCHENS",
        ego4d_folder: str = "Ego4D/v1_288p",
        num_clips: int = 4,
    ) -> None:
        super().__init__(questions, None, videos, folder, chosen_by, most_items, published_items)
        if chosen_by == "text":
            self.prompt_name = "question alone"
        if num_clips < 1:
            raise ValueError(f"num_clips is {num_clips}; expected at least 1")
        self.epic_folder = epic_folder
        self.ego4d_folder = ego4d_folder
        self.num_clips = num_clips

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """The clips of the last actions, and the frame that the question is asked at."""
        found = super().parts(row, problems)
        if not found:
            return ()
        video = found[0].path
        if text_of(row, ("video_source",)) == "Ego4D":
            medium, fps, first = MediaPart(f"{self.ego4d_folder}/{video}.mp4"), EGO4D_FPS, 0
        else:
            path = f"{self.epic_folder}/{video.split('_')[0]}/rgb_frames/{video}"
            medium, fps, first = MediaPart(path, frames_per_second=EPIC_FPS), EPIC_FPS, 1
        now = frame_of(row, row.values, "current_observation_frame", problems)
        if now is None:
            return ()
        shown = [*_last_clips(row, now, self.num_clips, problems), (now, now)]
        return tuple(
            medium._replace(start_ms=_ms(start - first, fps), end_ms=_ms(end + 1 - first, fps)) for start, end in shown
        )

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """Where the video is from."""
        source = text_of(row, ("video_source",))
        if source not in ("EpicKitchens", "Ego4D"):
            problems.append(Problem(row.where, f"video_source is {source!r}, expected EpicKitchens or Ego4D"))
        return {"source": source or "unknown"}

    def compare_answer(self, item: BenchmarkItem, draft: Draft, problems: list[Problem]) -> None:
        """Compare the text of the answer with its letter."""
        letter = text_of(draft.row, ("golden_choice_idx",)).upper()
        if item.answer is not None and letter and letter != LETTERS[item.answer]:
            what = f"{item.id}: the answer is option {LETTERS[item.answer]}, but golden_choice_idx is {letter!r}"
            problems.append(Problem(draft.row.where, what))


def _last_clips(row: FileRow, now: int, most: int, problems: list[Problem]) -> list[tuple[int, int]]:
    """First and last frame of the clips of the last actions that end by ``now``; none reaches into the next one."""
    actions = row.values.get(_PROGRESS)
    if not isinstance(actions, list):
        problems.append(Problem(row.where, f"{_PROGRESS} is no list of actions; only the last frame is shown"))
        return []
    spans = []
    for action in actions:
        start, stop = (frame_of(row, action, field, problems) for field in ("start_frame", "stop_frame"))
        if start is None or stop is None:
            continue
        if start > stop:
            problems.append(Problem(row.where, f"an action is from frame {start} to {stop}; it is left out"))
        elif stop <= now:
            spans.append((start, stop))
    last = spans[-most:]
    following = [*(start for start, _ in last[1:]), now]
    ends = [min(stop, after) for (_, stop), after in zip(last, following, strict=False)]
    return [(start, end) for (start, _), end in zip(last, ends, strict=True) if start <= end]


def _ms(frame: int, fps: float) -> int:
    """When a frame is first shown, rounded up, so that it is the frame on display then."""
    return max(0, math.ceil(frame * 1000 / fps))
