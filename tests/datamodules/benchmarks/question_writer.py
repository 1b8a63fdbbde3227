"""Writes tiny files of questions in the forms of published benchmarks."""

import csv
import json
from pathlib import Path
from typing import Any


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def videollamb_rows(number: int, **fields: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``test_q.json`` and ``test_a.json``: the right option of question ``i`` is ``i`` modulo 3."""
    questions = [
        {
            "video_name": f"clip{index % 2}",
            "question_id": f"q{index}",
            "question": f"what is number {index}",
            "option": {f"option {option}": f"thing {option} of {index}" for option in range(3)},
            **fields,
        }
        for index in range(number)
    ]
    return questions, [{"question_id": f"q{index}", "answer": index % 3} for index in range(number)]


def write_videollamb(root: Path, number: int = 4, **fields: Any) -> None:
    questions, answers = videollamb_rows(number, **fields)
    write_json(root / "test_q.json", questions)
    write_json(root / "test_a.json", answers)


def nextqa_rows() -> list[dict[str, Any]]:
    """One question of each of three groups, and a second causal one."""
    return [
        {
            "video": 4010069381,
            "frame_count": 369,
            "width": 640,
            "height": 480,
            "question": "how do they play",
            "answer": 3,
            "qid": number,
            "type": category,
            **{f"a{option}": f"answer {option}" for option in range(5)},
        }
        for number, category in enumerate(("CH", "TN", "DL", "CW"))
    ]


def write_nextqa(root: Path) -> None:
    write_csv(root / "test.csv", nextqa_rows())


def egoschema_rows(number: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "q_uid": f"uid-{index}",
            "google_drive_id": "x",
            "question": f"what does c do in {index}",
            **{f"option {option}": f"c does {option}" for option in range(5)},
        }
        for index in range(number)
    ]


def write_egoschema(root: Path) -> None:
    write_json(root / "questions.json", egoschema_rows())
    write_json(root / "subset_answers.json", {"uid-2": 4, "uid-0": 1})


def egoplan_row(**fields: Any) -> dict[str, Any]:
    """A row of EgoPlan's validation set, on Epic-Kitchens."""
    spans = [(10, 20), (30, 40), (50, 65), (60, 80), (90, 100), (110, 130)]
    return {
        "sample_id": 7,
        "video_source": "EpicKitchens",
        "video_id": "P01_13",
        "task_goal": "store cereal",
        "question": "what action should I take next in order to store cereal?",
        "choice_a": "put box",
        "choice_b": "take bag",
        "choice_c": "open door",
        "choice_d": "put bag",
        "golden_choice_idx": "C",
        "answer": "open door",
        "current_observation_frame": 100,
        "task_progress_metadata": [
            {"narration_text": "do", "start_frame": start, "stop_frame": stop} for start, stop in spans
        ],
        **fields,
    }


def write_egoplan(root: Path) -> None:
    ego4d = egoplan_row(sample_id=8, video_source="Ego4D", video_id="000786a7", answer="put box", golden_choice_idx="A")
    write_json(root / "EgoPlan_validation.json", [egoplan_row(), ego4d])


def write_mvbench(root: Path) -> None:
    """Three of the 20 files."""
    row = {"question": "what happened", "candidates": ["up", "down", "left"], "answer": "down"}
    part = {"start": 0.5, "end": 1.5}
    write_json(root / "json/action_sequence.json", [{"video": "ZS9XR.mp4", **row, **part}])
    write_json(root / "json/object_existence.json", [{"video": "video_1.mp4", **row, **part}])
    write_json(root / "json/episodic_reasoning.json", [{"video": "friends_s01", **row, **part}])


def write_table(root: Path) -> None:
    rows = [{"id": 1, "video": "clip0", "question": "which", "options": ["A. one", "B. two"], "answer": "B"}]
    write_json(root / "questions.json", rows)


WRITERS = {
    "egoplan": write_egoplan,
    "egoschema": write_egoschema,
    "egoschema_subset": write_egoschema,
    "mvbench": write_mvbench,
    "nextqa": write_nextqa,
    "table": write_table,
    "videollamb": write_videollamb,
    "videollamb_egoplan": write_videollamb,
    "videollamb_egoschema": write_videollamb,
    "videollamb_mvbench": write_videollamb,
    "videollamb_nextqa": write_videollamb,
}
"""What writes tiny files for a YAML in ``configs/benchmark``."""
