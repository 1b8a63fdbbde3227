"""Videos of the three tasks: lengths, sources, words, and held-out ones that are new."""

import dataclasses
import fnmatch
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from apps.quickstart.fetch import Parts
from apps.quickstart.haystack_questions import TASKS
from apps.quickstart.haystack_videos import encode
from apps.quickstart.tokenizer import conversation_texts
from benchmarks.ablation import tasks, three_tasks
from benchmarks.ablation.three_tasks import (
    FRESH,
    LENGTHS,
    SHORT,
    StudySize,
    make_videos,
    prepare_fresh,
    study_splits,
)

TINY = StudySize(1, 1, 1, 1, 1, 1, train_scenes=2, held_out_scenes=2)


def test_every_task_has_training_videos_up_to_16_frames_and_held_out_ones_up_to_32_times_that() -> None:
    splits = {split.name: split for split in study_splits(StudySize())}
    assert len(splits) == len(TASKS) * (2 + len(LENGTHS))
    for task in TASKS:
        one_segment, whole = splits[f"train-{task}-one-segment"], splits[f"train-{task}"]
        assert (one_segment.min_frames, one_segment.max_frames) == (4, 4)
        assert (whole.min_frames, whole.max_frames) == (4, 16)
        for times in LENGTHS:
            held_out = splits[f"eval-{task}-{times}x"]
            assert held_out.min_frames == held_out.max_frames == 16 * times
            assert (held_out.length, held_out.part) == (f"{times}x", "held_out")
        of_task = [split for split in splits.values() if split.name.split("-")[1] == task]
        assert {split.task for split in of_task} == {task}
        assert {split.part for split in of_task if split.name.startswith("train")} == {"train"}


def test_every_training_split_is_one_source_and_no_held_out_split_is_any() -> None:
    sources = tasks.TASKS["three_tasks"].settings(Path("data"))["data.train"]
    patterns = [source["shards"] for source in sources]
    for split in study_splits(SHORT):
        name = f"data/features/{split.name}-000000.tar"
        matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]
        assert len(matching) == split.name.startswith("train")
    assert len(patterns) == 2 * len(TASKS)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    grey = np.random.default_rng(0).integers(60, 180, (40, 150, 220, 1), dtype=np.uint8)
    path.write_bytes(encode(grey.repeat(3, axis=3)))
    return path


def test_fresh_videos_are_other_held_out_ones_alone(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = dataclasses.replace(TINY, eval_needle=2)
    monkeypatch.setattr(three_tasks, "fetch_parts", lambda wheels: Parts(tmp_path, (clip,), None))
    monkeypatch.setattr(three_tasks, "cache_features", lambda out, parts: (out / "features").mkdir())
    made = prepare_fresh(tmp_path, size, workers=1)
    assert set(made.shards) == {f"eval-{task}-{times}x" for task in TASKS for times in LENGTHS}
    assert {path.parent for paths in made.shards.values() for path in paths} == {tmp_path / FRESH / "videos"}
    assert (tmp_path / FRESH / "features").is_dir()
    earlier = make_videos(tmp_path, size, (clip,), workers=1)
    for name, paths in made.shards.items():
        assert paths[0].read_bytes() != earlier.shards[name][0].read_bytes()


def test_tokenizer_of_the_study_knows_every_word_of_the_conversations(tmp_path: Path, clip: Path) -> None:
    size = dataclasses.replace(TINY, train_needle=2)
    made = make_videos(tmp_path, size, (clip,), workers=1)
    assert made.num_videos["train-needle"] == 2
    assert made.num_frames["eval-count-32x"] == 512
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "language_model")
    for paths in made.shards.values():
        for text in conversation_texts(paths):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
