"""MVBench (Li et al., 2024): 20 tasks of 200 questions, each a file of its own, on videos of other sets.

Five tasks ask about a part of the video. The videos of one task are folders of frames, three a second.

Source: https://github.com/OpenGVLab/Ask-Anything, ``video_chat2/mvbench.ipynb`` (files, folders, and which tasks have
parts).
"""

from pathlib import Path
from typing import NamedTuple

from datamodules.benchmarks.answer_values import Form
from datamodules.benchmarks.item import MediaPart, Problem
from datamodules.benchmarks.question_files import FileRow, FileRows, read_file_rows
from datamodules.benchmarks.question_table import QuestionTable


class Task(NamedTuple):
    """Where the media of a task are."""

    folder: str
    has_parts: bool = False  # ``start`` and ``end`` of its rows count
    frames_per_second: float | None = None  # of its folders of frames


TASKS = {
    "action_sequence": Task("star/Charades_v1_480", True),
    "action_prediction": Task("star/Charades_v1_480", True),
    "action_antonym": Task("ssv2_video"),
    "fine_grained_action": Task("Moments_in_Time_Raw/videos"),
    "unexpected_action": Task("FunQA_test/test"),
    "object_existence": Task("clevrer/video_validation"),
    "object_interaction": Task("star/Charades_v1_480", True),
    "object_shuffle": Task("perception/videos"),
    "moving_direction": Task("clevrer/video_validation"),
    "action_localization": Task("sta/sta_video", True),
    "scene_transition": Task("scene_qa/video"),
    "action_count": Task("perception/videos"),
    "moving_count": Task("clevrer/video_validation"),
    "moving_attribute": Task("clevrer/video_validation"),
    "state_change": Task("perception/videos"),
    "fine_grained_pose": Task("nturgbd"),
    "character_order": Task("perception/videos"),
    "egocentric_navigation": Task("vlnqa"),
    "episodic_reasoning": Task("tvqa/frames_fps3_hq", True, 3.0),
    "counterfactual_inference": Task("clevrer/video_validation"),
}
"""The tasks by the name of their file."""

_OTHER = Task("", True)


class MVBench(QuestionTable):
    """Reads a folder of one JSON file a task, with rows ``video, question, candidates, answer`` and maybe times.

    A single file is read too. The answer is the text of an option. A question's id is ``TASK_NUMBER``.
    """

    expected_answer: Form = "text"

    def question_rows(self, path: Path) -> FileRows:
        """The rows of all files, with ids, in the order of the tasks."""
        if not path.is_dir():
            return _with_ids(path)
        found = {file.stem: file for file in sorted(path.glob("*.json"))}
        if not found:
            raise ValueError(f"{path} has no JSON file; give the folder with MVBench's 20 files")
        rows, problems = list[FileRow](), list[Problem]()
        for name in [*TASKS, *(other for other in found if other not in TASKS)]:
            if name not in found:
                problems.append(Problem(f"{name}.json", f"it is not in {path}"))
                continue
            try:
                of_task = _with_ids(found[name])
            except ValueError as error:
                problems.append(Problem(f"{name}.json", str(error)))
                continue
            rows += of_task.rows
            problems += of_task.problems
        return FileRows(rows, problems)

    def parts(self, row: FileRow, problems: list[Problem]) -> tuple[MediaPart, ...]:
        """The video, or the part of it, or of a folder of frames."""
        task = _task_of(row)
        return tuple(
            MediaPart(
                f"{task.folder}/{part.path}".removeprefix("/"),
                part.start_ms if task.has_parts else None,
                part.end_ms if task.has_parts else None,
                task.frames_per_second,
            )
            for part in super().parts(row, problems)
        )

    def labels(self, row: FileRow, answer: FileRow | None, problems: list[Problem]) -> dict[str, str]:
        """The task."""
        return {"type": row.where.split(",")[0].removesuffix(".json")}


def _with_ids(path: Path) -> FileRows:
    found = read_file_rows(path)
    rows = [row._replace(key=f"{path.stem}_{number}") for number, row in enumerate(found.rows)]
    return FileRows(rows, [*found.problems])


def _task_of(row: FileRow) -> Task:
    return TASKS.get(row.where.split(",")[0].removesuffix(".json"), _OTHER)
