"""The haystack test as files shows and asks what the test itself does."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.write_haystack import main
from components.pretrained.frame_settings import FrameSettings
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, HaystackNeedles, planned_video
from membridge.haystack_test.backgrounds import MadeBackground
from membridge.haystack_test.haystack_files import write_haystack_files
from membridge.haystack_test.made_video import MadeVideo
from membridge.media_files import read_media_file

BENCHMARK = HaystackBenchmark(HaystackGrid((2, 5), (0.0, 1.0)), HaystackNeedles(), all_orders=True)
SIZE = 64


def test_videos_show_the_frames_and_questions_have_the_prompts_of_the_test(tmp_path: Path) -> None:
    background = MadeBackground()
    assert write_haystack_files(BENCHMARK, background, tmp_path, size=SIZE, fps=2) == 6
    items = BENCHMARK.read().items
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [item.id for item in items]
    for row, item in zip(rows, items, strict=True):
        prompt = BENCHMARK.prompt(item, [])
        assert (row["prompt"], tuple(row["choices"]), row["answer"]) == (prompt.text, prompt.choices, item.answer)
        assert (row["length"], row["depth"]) == (item.labels["length"], item.labels["depth"])
        every_frame = FrameSettings(SIZE, num_frames=None, fps=2)
        read = read_media_file(tmp_path / row["video"], every_frame)
        video = MadeVideo(planned_video(item), background, every_frame)
        seconds = planned_video(item).cell.duration_ms / 1000
        assert len(read.frames) == 2 * seconds
        shown = np.stack([video.frame(500 * index) for index in range(len(read.frames))])
        difference = np.abs(read.frames.permute(0, 2, 3, 1).numpy().astype(float) - shown).mean(axis=(1, 2, 3))
        assert difference.max() < 8  # of 255: the codec's


def test_a_stopped_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "own.yaml"
    grid = {"lengths_s": [2], "depths": [0, 1]}
    path = "datamodules.haystack.haystack_benchmark.HaystackBenchmark"
    config.write_text(json.dumps({"class_path": path, "init_args": {"grid": grid}}))
    command = [str(config), str(tmp_path / "out"), "--size", "32", "--fps", "1"]
    main(command)
    assert f"3 videos and {tmp_path / 'out/questions.jsonl'}" in capsys.readouterr().out
    first, second, third = sorted((tmp_path / "out/videos").iterdir())
    kept, again = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    third.with_suffix(".part").write_bytes(b"half of a video")
    third.unlink()
    main(command)
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (kept, again)
    assert sorted((tmp_path / "out/videos").iterdir()) == [first, second, third]


@pytest.mark.parametrize("options", [{"size": 63}, {"size": 8}, {"fps": 0}])
def test_sizes_that_cannot_be_encoded_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected an even size"):
        write_haystack_files(BENCHMARK, MadeBackground(), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_questions_without_options_are_refused(tmp_path: Path) -> None:
    free = HaystackBenchmark(HaystackGrid((2,)), free_answers=True)
    with pytest.raises(ValueError, match="set free_answers to false"):
        write_haystack_files(free, MadeBackground(), tmp_path)
