import dataclasses
import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save
from transformers import AutoTokenizer

import train
from apps.commands import ROOT
from apps.evaluate import command as evaluate
from apps.quickstart.fetch import Parts
from apps.quickstart.haystack_questions import OPTIONS, TASKS, conversations
from apps.quickstart.haystack_videos import encode
from apps.quickstart.needles import Needle
from apps.quickstart.tokenizer import build_language_model_folder, conversation_texts
from benchmarks.memory_study import data, training
from benchmarks.memory_study.arms import ARMS, FOLDER, FRESH, Run
from benchmarks.memory_study.costs import main as measure_costs
from benchmarks.memory_study.data import LENGTHS, SHORT, StudySize, make_videos, prepare_fresh, study_splits
from benchmarks.memory_study.rank import main as measure_rank
from benchmarks.memory_study.studies import ALL_TASKS, QUICKSTART, Study
from benchmarks.memory_study.training import evaluate_fresh, study_config, train_arms, training_command
from tests.fixtures_data import write_shard

TINY = StudySize(1, 1, 1, 1, 1, 1, train_scenes=2, held_out_scenes=2)
NEEDLE = Needle("star", "blue", 0, 40, 0, 0, 0.0)


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
    study: Any = OmegaConf.load(ROOT / "benchmarks/memory_study/study.yaml")
    patterns = [source.shards for source in study.data.train]
    for split in study_splits(SHORT):
        name = f"{FOLDER}/features/{split.name}-000000.tar"
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
    monkeypatch.setattr(data, "fetch_parts", lambda wheels: Parts(tmp_path, (clip,), None))
    monkeypatch.setattr(data, "cache_features", lambda out, parts: (out / "features").mkdir())
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


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose features are noise: three training shards of each task, two lengths of held-out videos."""
    torch.manual_seed(0)
    features = tmp_path / "features"
    features.mkdir()
    names = [f"train-{task}{part}" for task in TASKS for part in ("", "-one-segment")]
    names += [f"eval-{task}-{length}" for task in TASKS for length in ("1x", "2x")]
    for name in names:
        task: Any = name.split("-")[1]
        num_frames = 8 if name.endswith("2x") else 4
        samples = []
        for number in range(len(OPTIONS["count"])):
            needles = {"needle": [NEEDLE], "order": [NEEDLE] * 2, "count": [NEEDLE] * number}[task]
            meta = {"length": name.split("-")[2] if name.startswith("eval") else "train", "num_frames": num_frames}
            key = f"{name}-{number}"
            record = {"source": "noise", "meta": meta, "conversations": conversations(task, needles, num_frames, key)}
            tensors = {
                "features": torch.randn(num_frames, 10, 384),
                "frame_ms": torch.arange(num_frames) * 500,
            }
            samples.append((key, record, save(tensors), "safetensors"))
        write_shard(features / f"{name}-000000.tar", samples)
    (features / "features.json").write_text("{}")
    shards = sorted(features.glob("*.tar"))
    build_language_model_folder(shards, tmp_path / "language_model", num_layers=1, width=32, num_heads=2)
    return tmp_path


@pytest.mark.parametrize("arm", ["both", "mean_pooling", "grid_memory_budget"])
def test_an_arm_trains_is_judged_and_its_rank_measured(study: Path, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = Run(study, arm, 5)
    cli = train.main([*training_command(run, steps=2)[1:], "--trainer.enable_progress_bar=false"])
    assert cli.trainer.global_step == 2
    assert cli.datamodule.order.seed == cli.config.fit.seed_everything == 5
    checkpoint = ["--checkpoint", str(run.checkpoint)]
    report = evaluate.main([*checkpoint, "--data", str(study / "features/eval-*.tar"), "--out", str(run.report.parent)])
    asked = {
        length: set(categories) - {"place"} for length, categories in report["by_length_and_category"].items()
    }  # not of all videos
    assert asked == {length: {"colour", "shape", "first", "last", "count"} for length in ("1x", "2x")}
    measure_rank([*checkpoint, "--data", str(study / "features/eval-needle-*.tar"), "--out", str(run.rank)])
    ranks = json.loads(run.rank.read_text())
    assert list(ranks) == ([] if arm == "mean_pooling" else ["1x", "2x"])
    for entry in ranks.values():
        assert entry["videos"] == 4
        assert 1 <= entry["mean"] <= entry["num_memory"] == (16 if arm == "both" else 8)
    measure_costs([*checkpoint, "--data", str(study / "features/eval-needle-*.tar"), "--out", str(run.costs)])
    costs = json.loads(run.costs.read_text())
    # Queries of the cache; patches of a frame; a vector of each grid of each memory.
    tokens = {"both": (8, 8), "mean_pooling": (9, 9), "grid_memory_budget": (8, 16)}[arm]
    assert tuple(of["visual_tokens"] for of in costs.values()) == tokens
    assert [of["videos"] for of in costs.values()] == [4, 4]
    growth = costs["2x"]["state_bytes"] - costs["1x"]["state_bytes"]
    # 16 memory tokens of width 192, their time and masks; a sum; keys and values of the second of two memories too.
    floats = {"both": 16 * 192, "mean_pooling": 0, "grid_memory_budget": 3 * 72 * 32}[arm]
    assert 4 * floats <= growth < 4 * floats + 100


def test_every_arm_is_made_of_configs_that_exist() -> None:
    for configs in ARMS.values():
        for config in configs:
            assert (ROOT / config).is_file()


@pytest.mark.parametrize("which", [ALL_TASKS, QUICKSTART], ids=["all tasks", "quickstart"])
def test_data_elsewhere_gets_a_config_of_its_own(study: Path, which: Study) -> None:
    assert (ROOT / study_config(which.folder, which)).is_file()
    text = Path(study_config(study, which)).read_text()
    assert f"{study}/features/train-" in text
    assert f"{which.folder}/" not in text


class Commands:
    """Stands in for the processes of a study: writes what they would write, and fails where told to."""

    def __init__(self) -> None:
        self.run: list[list[str]] = []
        self.failing = ""

    def __call__(self, command: list[str], log: Any) -> None:
        self.run.append(command)
        if self.failing and self.failing in " ".join(command):
            raise RuntimeError("the process ended with status 1")
        if command[0] == "train.py":
            option = "--trainer.logger.init_args."
            place = [Path(command[command.index(option + name) + 1]) for name in ("save_dir", "name", "version")]
            target = Path(*place) / "checkpoints" / "final.ckpt"
        else:
            target = Path(command[command.index("--out") + 1])
            target = target / "report.json" if command[0] == "evaluate.py" else target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{}")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    fake = Commands()
    monkeypatch.setattr(training, "_run_logged", fake)
    return fake


def test_the_quickstarts_study_trains_on_its_own_config(study: Path, commands: Commands) -> None:
    run = Run(study, "both", 0, QUICKSTART)
    assert train_arms([run]) == []
    assert study_config(study, QUICKSTART) in commands.run[0]
    assert json.loads(run.settings.read_text())["steps"] == OmegaConf.load(ROOT / QUICKSTART.config).trainer.max_steps


def test_finished_runs_are_kept_and_new_seeds_are_added(study: Path, commands: Commands) -> None:
    assert train_arms([Run(study, "both", 0), Run(study, "published", 0)], jobs=2) == []
    assert len(commands.run) == 8
    commands.run.clear()
    assert train_arms([Run(study, "both", 0), Run(study, "both", 1)], jobs=2) == []
    assert len(commands.run) == 4
    assert all("seed-1" in " ".join(command) for command in commands.run)


def test_stopped_training_goes_on_from_its_last_checkpoint(study: Path, commands: Commands) -> None:
    run = Run(study, "both", 0)
    commands.failing = "evaluate.py"
    assert train_arms([run]) == [run]
    commands.failing = ""
    commands.run.clear()
    run.checkpoint.rename(run.last_checkpoint)
    assert train_arms([run]) == []
    assert commands.run[0][-2:] == ["--ckpt_path", str(run.last_checkpoint)]


def test_training_is_not_repeated_where_only_judging_failed(study: Path, commands: Commands) -> None:
    run = Run(study, "both", 0)
    commands.failing = "evaluate.py"
    train_arms([run])
    commands.failing = ""
    commands.run.clear()
    assert train_arms([run]) == []
    assert [command[0] for command in commands.run] == ["evaluate.py", "-m", "-m"]


def test_finished_runs_are_judged_on_fresh_videos_once(study: Path, commands: Commands) -> None:
    runs = [Run(study, "both", seed) for seed in (0, 1)]
    train_arms(runs)
    commands.run.clear()
    commands.failing = "seed-1"
    assert evaluate_fresh(runs, jobs=1) == runs[1:]
    commands.failing = ""
    assert evaluate_fresh(runs, jobs=1) == []
    assert [command[0] for command in commands.run] == ["evaluate.py"] * 3
    assert all(str(study / FRESH / "features/eval-*.tar") in command for command in commands.run)
    assert all(run.report.read_text() == run.fresh_report.read_text() == "{}" for run in runs)


def test_a_failing_run_does_not_stop_the_others(
    study: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [Run(study, arm, 0) for arm in ("published", "both")]
    commands.failing = "published_bridge.yaml"
    assert train_arms(runs, jobs=1) == runs[:1]
    assert runs[1].rank.exists()
    assert "published, seed 0 failed: the process ended" in capsys.readouterr().err


def test_runs_of_other_settings_are_refused_before_anything_is_trained(study: Path, commands: Commands) -> None:
    train_arms([Run(study, "both", 0)], steps=3)
    commands.run.clear()
    with pytest.raises(ValueError, match=r"arms/both/seed-0 \(steps\).*Remove or rename"):
        train_arms([Run(study, "both", 1), Run(study, "both", 0)], steps=4)
    (study / "features/features.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match=r"seed-0 \(features\)"):
        train_arms([Run(study, "both", 0)], steps=3)
    assert commands.run == []


def test_without_data_training_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="memory_study prepare"):
        train_arms([Run(tmp_path, "both", 0)])
