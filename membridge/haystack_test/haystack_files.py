"""Writes the haystack test as files, for other programs: a video for each cell, and the questions as JSON lines."""

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from tqdm import tqdm

from components.pretrained.frame_settings import FrameSettings
from datamodules.benchmarks.item import BenchmarkItem
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, planned_video
from membridge.haystack_test.backgrounds import Background
from membridge.haystack_test.made_video import MadeVideo

QUESTIONS = "questions.jsonl"
VIDEOS = "videos"
_KEYFRAME_SECONDS = 2


def write_haystack_files(
    benchmark: HaystackBenchmark, background: Background, out: Path, *, size: int = 224, fps: int = 2
) -> int:
    """Write ``questions.jsonl`` and ``videos/``. Videos that exist are not written again.

    Args:
        benchmark: The grid.
        background: The haystack.
        out: Folder to write.
        size: Height and width of the videos, an even number of pixels.
        fps: Frames a second of the videos.

    Returns:
        Number of videos.

    Raises:
        ValueError: ``size`` or ``fps`` is out of range, or the questions have no options.
    """
    if size < 16 or size % 2 or fps < 1:
        raise ValueError(f"size is {size} and fps {fps}; expected an even size of at least 16, and fps of at least 1")
    if benchmark.free_answers:
        raise ValueError("questions are written with their options; set free_answers to false")
    (out / VIDEOS).mkdir(parents=True, exist_ok=True)
    items = benchmark.read().items
    videos = {item.media[0].path: item for item in items}
    for name, item in tqdm(videos.items(), unit="video", disable=None):
        path = out / VIDEOS / f"{name}.mp4"
        if not path.exists():
            written = path.with_suffix(".part")
            settings = FrameSettings(size, num_frames=None, fps=fps)
            _write_video(written, MadeVideo(planned_video(item), background, settings), size, fps)
            written.rename(path)  # a video with its name is complete
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(benchmark, items))
    questions = out / f"{QUESTIONS}.part"
    questions.write_text(lines, encoding="utf-8")
    os.replace(questions, out / QUESTIONS)
    return len(videos)


def _rows(benchmark: HaystackBenchmark, items: list[BenchmarkItem]) -> Iterator[dict[str, Any]]:
    """A row for each question; ``prompt`` and ``choices`` are those of this project's own evaluation."""
    for item in items:
        prompt = benchmark.prompt(item, [])
        yield {
            "id": item.id,
            "video": f"{VIDEOS}/{item.media[0].path}.mp4",
            "prompt": prompt.text,
            "choices": list(prompt.choices),
            "question": item.question,
            "options": list(item.options),
            "answer": item.answer,
            "group": item.group,
            **{name: item.labels[name] for name in ("task", "needle", "length", "depth")},
        }


def _write_video(path: Path, video: MadeVideo, size: int, fps: int) -> None:
    """Encode a video frame by frame, so that its length needs no memory."""
    number = max(1, round(video.plan.cell.duration_ms * fps / 1000))
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=Fraction(fps), options={"crf": "18"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = _KEYFRAME_SECONDS * fps
        for index in range(number):
            picture = av.VideoFrame.from_ndarray(video.frame(index * 1000 // fps), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
