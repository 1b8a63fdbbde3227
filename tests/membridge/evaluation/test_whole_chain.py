"""Every benchmark on stand-in media: two processes, one of them stopped, give the report of one process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.segmenters.fixed_length import FixedLength
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.benchmark_config import benchmark_names, load_benchmark
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from membridge.evaluation.benchmark_report import build_report
from membridge.evaluation.benchmark_run import BenchmarkRun, Share
from membridge.evaluation.item_answers import AskingSettings
from tests.datamodules.benchmarks.other_question_writers import ALL_WRITERS
from tests.fixtures_data import make_clip, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, segmenter=FixedLength(2))
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=2.0, max_frames=8), 2)
    return built


def write_stand_in(folder: Path, part: MediaPart, seed: int) -> None:
    """A clip of 4 s, or a folder of frames of 20 s; the parts of these questions end before."""
    path = folder / part.path
    if path.exists() or path.with_name(f"{path.name}.mp4").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if part.frames_per_second is not None:
        path.mkdir()
        count = round(20 * part.frames_per_second)
        for number in range(1, count + 1):
            Image.fromarray(np.full((16, 16, 3), number % 256, dtype=np.uint8)).save(path / f"{number:010d}.jpg")
        return
    clip = make_clip(8, width=48, height=48, fps=2, frames=natural_frames(8, 48, 48, seed))
    (path if path.suffix else path.with_name(f"{path.name}.mp4")).write_bytes(clip)


def run_of(benchmark: Benchmark, items: list[BenchmarkItem], root: Path, out: Path) -> BenchmarkRun:
    return BenchmarkRun(
        benchmark, items, root / benchmark.videos, out, {"model": "tiny"}, AskingSettings(max_new_tokens=2, at_once=2)
    )


def report_of(run: BenchmarkRun) -> str:
    """The report as JSON, without times."""
    report: dict[str, Any] = build_report(run.benchmark, run.items, run.answers(), {"benchmark": "made"})
    report["means"] = {name: value for name, value in report["means"].items() if not name.endswith("seconds")}
    return json.dumps(report)


@pytest.mark.parametrize("name", benchmark_names())
def test_two_processes_of_which_one_is_stopped_give_the_report_of_one(
    name: str, model: VideoLanguageModel, tmp_path: Path
) -> None:
    ALL_WRITERS[name](tmp_path)
    benchmark = load_benchmark(name)
    items = benchmark.read(tmp_path).items
    for seed, part in enumerate(dict.fromkeys(part for item in items for part in item.media)):
        write_stand_in(tmp_path / benchmark.videos, part, seed)
    one = run_of(benchmark, items, tmp_path, tmp_path / "one")
    one.answer(model)
    assert [line["id"] for line in one.answers().values() if "error" in line] == []
    two = run_of(benchmark, items, tmp_path, tmp_path / "two")
    two.answer(model, Share(1, 2))
    two.answer(model, Share(0, 2))
    path = tmp_path / "two/answers.0-of-2.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])  # killed while it wrote
    again = run_of(benchmark, items, tmp_path, tmp_path / "two")
    assert not again.is_complete()
    again.answer(model, Share(0, 2))
    assert report_of(again) == report_of(one)
