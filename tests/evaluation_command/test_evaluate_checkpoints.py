"""Which checkpoints ``evaluate.py`` opens, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from apps.evaluate import command as evaluate
from lightning_modules.evaluation.predictions import read_predictions
from lightning_modules.export import export
from tests.evaluation_command.held_out_run import ALL_QUESTIONS, QUESTIONS, Run, held_out_samples
from tests.fixtures_data import make_record, make_tiny_tokenizer, write_shard


def test_checkpoint_knows_its_config_wherever_it_lies(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    copied = shutil.copytree(run.checkpoint, tmp_path / "elsewhere.ckpt")
    evaluate.main(["--checkpoint", str(copied), "--data", *run.shards, "--out", str(tmp_path / "again")])
    answers = [read_predictions(tmp_path / out / "predictions.jsonl") for out in ("evaluation", "again")]
    assert answers[0] == answers[1]


def test_checkpoint_without_a_config_asks_for_it(run: Run, tmp_path: Path) -> None:
    lonely = shutil.copytree(run.checkpoint, tmp_path / "lonely.ckpt")
    (lonely / "config.yaml").rename(tmp_path / "config.yaml")
    index = json.loads((lonely / "index.json").read_text())
    del index["files"]["config.yaml"]
    del index["hashes"]["config.yaml"]
    (lonely / "index.json").write_text(json.dumps(index))
    command = ["--checkpoint", str(lonely), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    with pytest.raises(ValueError, match=r"lonely.ckpt does not hold the config of its run; name the config"):
        evaluate.main(command)
    report = evaluate.main([*command, "--config", str(tmp_path / "config.yaml")])
    assert report["accuracy"]["questions"] == len(ALL_QUESTIONS)


def test_export_is_evaluated_as_its_checkpoint_is(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    export(run.checkpoint, tmp_path / "export")
    command = ["--checkpoint", str(tmp_path / "export"), "--data", *run.shards, "--out", str(tmp_path / "again")]
    evaluate.main(command)
    answers = [read_predictions(tmp_path / out / "predictions.jsonl") for out in ("evaluation", "again")]
    assert answers[0] == answers[1]


def test_averages_of_a_run_without_any_are_refused(run_evaluation: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"final.ckpt|step-.* has no running averages"):
        run_evaluation("--averaged")


def test_missing_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint nowhere\.ckpt"):
        evaluate.main(["--checkpoint", "nowhere.ckpt", "--data", *run.shards, "--out", str(tmp_path)])


def test_checkpoint_of_other_parts_is_refused(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.model.bridge = {"class_path": "components.bridges.mean_pooling.MeanPooling"}
    OmegaConf.save(config, tmp_path / "other.yaml")
    command = ["--checkpoint", str(run.checkpoint), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    with pytest.raises(ValueError, match="the checkpoint does not fit the configured model"):
        evaluate.main([*command, "--config", str(tmp_path / "other.yaml")])


def test_broken_samples_that_were_skipped_are_counted(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.data.loading.failures = {"on_error": "skip", "skipped_file": str(tmp_path / "skipped.jsonl")}
    OmegaConf.save(config, tmp_path / "skip.yaml")
    broken = ("broken", make_record(QUESTIONS), b"no video", "mp4")
    shard = write_shard(tmp_path / "broken.tar", [broken, *held_out_samples()[:1]])
    command = ["--checkpoint", str(run.checkpoint), "--data", str(shard), "--out", str(tmp_path / "evaluation")]
    report = evaluate.main([*command, "--config", str(tmp_path / "skip.yaml")])
    assert report["accuracy"]["questions"] == 2
    assert report["evaluated"]["conversations left out, because their sample is broken"] == 2


def test_evaluation_writes_nothing_outside_its_folder(
    run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_evaluation()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_tokenizer_and_chat_settings_that_are_not_the_language_models_are_refused(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.data.tokenizer = str(make_tiny_tokenizer(tmp_path / "other", words=["user", "assistant", "which", "colour"]))
    config.data.loading.chat = {"date": "2031-05-06"}
    OmegaConf.save(config, tmp_path / "other.yaml")
    options = ["--data", *run.shards, "--out", str(tmp_path / "evaluation"), "--config"]
    for command in (["--checkpoint", str(run.checkpoint), *options], options):
        with pytest.raises(ValueError, match=r"2 things are wrong.*data\.tokenizer.*data\.loading\.chat"):
            evaluate.main([*command, str(tmp_path / "other.yaml")])
    # Nothing was asked, so the folder belongs to no evaluation yet.
    evaluate.main([*options, str(run.config)])


def test_a_part_may_be_named_by_its_class_alone(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.load(run.config)
    config.model.bridge = "components.bridges.mean_pooling.MeanPooling"
    OmegaConf.save(config, tmp_path / "short.yaml")
    command = ["--config", str(tmp_path / "short.yaml"), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    assert evaluate.main(command)["accuracy"]["questions"] == len(ALL_QUESTIONS)
    assert "runs with random weights of bridge" in capfd.readouterr().err


def test_a_config_that_lacks_a_section_is_told_so(run: Run, tmp_path: Path) -> None:
    part = tmp_path / "part.yaml"
    part.write_text("data: {pixels: {size: 16}}\n")
    with pytest.raises(ValueError, match="the config has no model: give all files"):
        evaluate.main(["--config", str(part), "--data", *run.shards, "--out", str(tmp_path / "evaluation")])
