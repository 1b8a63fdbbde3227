"""Writes tiny files of questions in the forms of sets with subtitles, with times, and with other fields."""

from pathlib import Path
from typing import Any

from datamodules.benchmarks.mlvu import TASKS
from tests.datamodules.benchmarks.question_writer import WRITERS, write_json

OPTIONS = ["a cup", "a hat", "a dog"]


def lettered(options: list[str] = OPTIONS) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip("ABCDEF", options, strict=False)]


def write_videomme(root: Path) -> None:
    rows = [
        {
            "videoID": f"clip{number % 2}",
            "duration": ("short", "long")[number % 2],
            "domain": "Sports",
            "question_id": f"00{number}",
            "task_type": "Counting",
            "question": f"What is number {number}?",
            "options": lettered(),
            "answer": "ABC"[number % 3],
        }
        for number in range(4)
    ]
    write_json(root / "videomme.json", rows)
    (root / "subtitle").mkdir()
    (root / "subtitle/clip0.srt").write_text("1\n00:00:00,000 --> 00:00:09,000\nHello.\n")


def write_mlvu(root: Path) -> None:
    for file, task in TASKS.items():
        row = {"video": f"{task}.mp4", "duration": 4, "question": "What?", "candidates": OPTIONS, "answer": OPTIONS[1]}
        write_json(root / f"json/{file}.json", [{**row, "question_type": task}])


def write_longvideobench(root: Path) -> None:
    rows = [
        {
            "video_path": "clip.mp4",
            "subtitle_path": "clip_en.json",
            "question": "What is on the table?",
            "candidates": [*OPTIONS, "N/A"],
            "correct_choice": number,
            "duration": 4.0,
            "duration_group": 15,
            "question_category": "S2E",
            "id": f"clip_{number}",
        }
        for number in range(3)
    ]
    write_json(root / "lvb_val.json", rows)
    lines = [{"start": "00:00:01.000", "end": "00:00:02.000", "line": "first"}]
    write_json(root / "subtitles/clip_en.json", lines)


def write_streamingbench(root: Path) -> None:
    questions = [
        {
            "task_type": ("Recognition", "Counting")[number % 2],
            "question": f"What is shown now, {number}?",
            "time_stamp": f"00:00:0{number + 1}",
            "answer": "ABC"[number],
            "options": lettered(),
        }
        for number in range(3)
    ]
    for part in ("real", "omni", "sqa"):
        write_json(root / f"questions_{part}.json", [{"video_path": "clip.mp4", "questions": questions}])


def write_ovobench(root: Path) -> None:
    common: dict[str, Any] = {"video": "clip.mp4", "question": "What now?", "options": OPTIONS}
    rows = [
        {"id": 0, "task": "EPM", "realtime": 2.5, "gt": 1, **common},
        {"id": 1, "task": "OCR", "realtime": 3, "gt": 2, **common},
        {"id": 2, "task": "REC", "video": "clip.mp4", "activity": "jump", "test_info": [{"realtime": 2, "count": 1}]},
        {"id": 3, "task": "SSR", "video": "two.mp4", "test_info": [{"realtime": 2, "step": "open it", "type": 1}]},
        {"id": 4, "task": "CRR", "video": "two.mp4", "question": "Who?", "test_info": [{"realtime": 3, "type": 0}]},
    ]
    write_json(root / "ovo_bench_new.json", rows)


def write_rtvbench(root: Path) -> None:
    rows = [
        {
            "video": "clip.mp4",
            "questionID": f"q-group-1-{level}-a",
            "type": "Event-VP",
            "field": "sports",
            "end_time": end,
            "question": "What happens?",
            "options": dict(zip("ABC", OPTIONS, strict=True)),
            "answer": "ABC"[level],
        }
        for level in range(3)
        for end in (1, 3)
    ]
    write_json(root / "QA.json", rows)


def write_videoevalpro(root: Path) -> None:
    rows = [
        {
            "video": "clip.mp4",
            "question": f"Where is {option}?",
            "options": lettered(),
            "answer": letter,
            "answer_text": option,
            "qa_type": "Local Perception",
        }
        for letter, option in zip("ABC", OPTIONS, strict=True)
    ]
    write_json(root / "test.json", rows)


def write_lvbench(root: Path) -> None:
    question = "\n".join(["Which?", "(A) 1636", "(B) 1366", "(C) 1363"])
    rows = [{"uid": letter, "video_path": "clip.mp4", "question": question, "answer": letter} for letter in "ACB"]
    write_json(root / "lvbench.json", rows)


def write_timescope(root: Path) -> None:
    asked = "\n".join(["What?", *lettered()])
    rows = [
        {"id": number, "video": "clip.mp4", "length": 60, "type": "QA", "input": asked, "answer": "CA"[number]}
        for number in range(2)
    ]
    write_json(root / "timescope.json", rows)


def write_vnbench(root: Path) -> None:
    orders = (["red", "blue"], ["blue", "red"])
    rows = [
        {"video": "clip.mp4", "question": question, "options": order, "gt": "red", "type": "ret_edit1"}
        for question in ("First?", "Second?")
        for order in orders
    ]
    write_json(root / "VNBench-main-4try.json", rows)


ALL_WRITERS = {
    **WRITERS,
    **dict.fromkeys(("videomme", "videomme_subtitles"), write_videomme),
    "mlvu": write_mlvu,
    **dict.fromkeys(("longvideobench", "longvideobench_text", "longvideobench_interleaved"), write_longvideobench),
    **dict.fromkeys(
        ("streamingbench_real", "streamingbench_real_all", "streamingbench_omni", "streamingbench_sqa"),
        write_streamingbench,
    ),
    "ovobench": write_ovobench,
    "rtvbench": write_rtvbench,
    **dict.fromkeys(("videoevalpro", "videoevalpro_mcq"), write_videoevalpro),
    "lvbench": write_lvbench,
    "timescope": write_timescope,
    "vnbench": write_vnbench,
}
"""What writes tiny files for every YAML in ``configs/benchmark``."""
