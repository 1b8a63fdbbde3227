"""Every YAML under configs/ trains, validates and tests through the real command line, on tiny parts."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure

import train
from apps import cache_features
from lightning_modules.monitoring import inspection
from lightning_modules.trained_model import read_config
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_data import make_clip, make_record, natural_frames, write_shard
from tests.fixtures_models import make_quickstart_parts, make_recipe_parts

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE = ["base.yaml", "quickstart_pixels.yaml"]
FEATURES = [*BASE, "quickstart.yaml"]
CHAINS = {
    "base.yaml": BASE,
    "quickstart_pixels.yaml": BASE,
    "quickstart.yaml": FEATURES,
    "quickstart_smollm2.yaml": [*FEATURES, "quickstart_smollm2.yaml"],
    "model/tiny.yaml": [*BASE, "model/tiny.yaml"],
    "recipes/one_24gb_card.yaml": [*BASE, "recipes/one_24gb_card.yaml"],
}
FOLLOWS = {"stages/stage2_everything.yaml": "stages/stage1_bridge_only.yaml"}  # begins where the other run ended
TESTED_ELSEWHERE = {"model/videollamb_7b.yaml": "test_videollamb_7b.py"} | {  # trains, judges and exports there
    f"strategy/{path.name}": "test_strategy_configs.py"
    for path in (CONFIGS / "strategy").glob("*.yaml")
    if path.name not in ("single_device.yaml", "activation_checkpointing.yaml", "accumulate.yaml")
}
LENGTHS = ("1x", "2x", "4x", "8x")
ANSWERS = ("red", "green", "blue square", "circle", "red square", "green circle", "blue")
QUICK = ["--trainer.limit_train_batches=2", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]


def chain_of(name: str) -> list[str]:
    """The files that a config is used with, itself last."""
    return CHAINS.get(name, [*FEATURES, name])


def config_arguments(name: str) -> list[str]:
    return [part for file in chain_of(name) for part in ("-c", str(CONFIGS / file))]


def all_configs() -> list[str]:
    paths = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    # What is under cluster/ is no config of train.py; lightning_modules/test_submit.py reads it.
    return sorted({str(path) for path in paths if path.parts[0] != "cluster"} - TESTED_ELSEWHERE.keys())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny stand-ins at the paths that the configs name, features cached by the real command."""
    folder = tmp_path_factory.mktemp("workplace")
    make_quickstart_parts(folder)
    make_recipe_parts(folder)
    for name, num_frames in (("train", 4), ("eval-1x", 6), ("eval-2x", 6), ("eval-4x", 6), ("eval-8x", 6)):
        frames = [natural_frames(num_frames, 84, 84, seed) for seed in range(len(ANSWERS) if name == "train" else 2)]
        clips = [make_clip(num_frames, width=84, height=84, fps=2, frames=one) for one in frames]
        records = [
            make_record([("which colour ?", answer)], meta={"num_frames": num_frames, "length": name})
            for answer in ANSWERS[: len(clips)]
        ]
        write_shard(
            folder / f"runs/quickstart/videos/{name}-000000.tar",
            [
                (f"{name}{i:03d}", records[i % len(clips)], clips[i % len(clips)], "mp4")
                for i in range(64 if name == "train" else 2)
            ],
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = [part for file in BASE for part in ("-c", str(CONFIGS / file))]
        cache_features.main([*arguments, "--shards", "runs/quickstart/videos", "--out", "runs/quickstart/features"])
    return folder


@pytest.mark.parametrize("name", all_configs())
def test_config_trains_validates_and_tests(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    if name.startswith("ablation/"):
        # Rendering takes most of the time and knows nothing of the config; the other configs do it.
        monkeypatch.setattr(inspection, "draw_video", lambda video: Figure(figsize=(1, 1)))
    if name in FOLLOWS:
        train.main(["fit", *config_arguments(FOLLOWS[name]), *QUICK, "--trainer.limit_val_batches=0"])
    arguments = config_arguments(name)
    cli = train.main(["fit", *arguments, *QUICK, "--trainer.precision=32-true"])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    accuracies = {key for key in cli.trainer.callback_metrics if key.startswith("val/accuracy/")}
    assert accuracies == {f"val/accuracy/{length}" for length in LENGTHS}
    checkpoint = Path(cli.trainer.log_dir or "") / "checkpoints" / "final.ckpt"
    assert (checkpoint / "config.yaml").is_file()
    validated = train.main(["validate", *arguments, "--trainer.precision=32-true", "--ckpt_path", str(checkpoint)])
    for length in LENGTHS:
        name = f"val/loss/{length}"
        torch.testing.assert_close(validated.trainer.callback_metrics[name], cli.trainer.callback_metrics[name])


@pytest.mark.parametrize(("name", "file"), TESTED_ELSEWHERE.items())
def test_config_that_is_tested_elsewhere_is_named_there(name: str, file: str) -> None:
    assert (CONFIGS / name).is_file()
    assert Path(name).name in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_test_and_predict_run_and_predict_writes_json_lines(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    arguments = [*config_arguments("quickstart.yaml"), "--trainer.logger.init_args.name=predict"]
    tested = train.main(["test", *arguments])
    assert {f"test/accuracy/{length}" for length in LENGTHS} <= set(tested.trainer.callback_metrics)
    predicted = train.main(["predict", *arguments])
    lines = (Path(predicted.trainer.log_dir or "") / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["eval-8x000", "eval-8x001"]


def test_page_about_ablations_names_exactly_the_files() -> None:
    page = (CONFIGS.parent / "docs" / "ablations.md").read_text(encoding="utf-8")
    rows = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    named = re.findall(r"`(\w+\.yaml)`", rows)
    assert sorted(named) == sorted(path.name for path in (CONFIGS / "ablation").glob("*.yaml"))


def test_wrong_key_exits_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["fit", *config_arguments("quickstart.yaml"), "--model.bridge.init_args.number_of_memories=3"])
    assert "number_of_memories" in capsys.readouterr().err


def test_wrong_type_exits_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["fit", *config_arguments("quickstart.yaml"), "--trainer.max_steps=many"])
    assert "max_steps" in capsys.readouterr().err


def test_wrong_config_path_exits_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["fit", "-c", "configs/no_such_file.yaml"])
    assert "no_such_file.yaml" in capsys.readouterr().err


def test_interpolation_reads_other_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {tokenizer: '${..model.language_model.init_args.path}'}\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        train.main(["fit", *config_arguments("quickstart.yaml"), "-c", str(overlay), "--print_config"])
    assert "tokenizer: runs/quickstart/language_model" in capsys.readouterr().out


def test_last_is_the_newest_checkpoint_of_the_runs_of_this_name(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    arguments = [*config_arguments("quickstart.yaml"), *QUICK, "--trainer.logger.init_args.name=last"]
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in the runs of"):
        train.main(["validate", *arguments, "--ckpt_path", "last"])
    first = train.main(["fit", *arguments, "--checkpoint.every_n_steps=1", "--ckpt_path", "last"])
    assert first.trainer.ckpt_path is None
    longer = [*arguments, "--trainer.max_steps=3", "--trainer.limit_train_batches=3"]
    second = train.main(["fit", *longer, "--ckpt_path", "last"])
    assert Path(second.trainer.ckpt_path or "").name == "step-00000002.ckpt"
    assert second.trainer.global_step == 3
    assert first.trainer.log_dir != second.trainer.log_dir


@pytest.mark.parametrize(
    "overlays",
    [[], ["replacing_memory", "memory_readout"], ["published_bridge"], ["uniform_segments", "cache_readout"]],
)
def test_files_merge_for_evaluation_as_they_do_for_training(
    overlays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [*(CONFIGS / name for name in FEATURES), *(CONFIGS / f"ablation/{name}.yaml" for name in overlays)]
    with pytest.raises(SystemExit):
        train.main(["fit", *(part for file in files for part in ("-c", str(file))), "--print_config"])
    expected = yaml.safe_load(capsys.readouterr().out)["model"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoLanguageModule, "model")
    merged, trained = (parser.parse_object({"model": model}) for model in (read_config(files)["model"], expected))
    assert parser.dump(merged) == parser.dump(trained)
