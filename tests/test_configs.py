"""Every YAML under configs/ trains and validates through the real command line, on tiny parts."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from matplotlib.figure import Figure

import train
from apps import cache_features
from lightning_modules.console.config_files import read_config
from lightning_modules.monitoring import inspection
from lightning_modules.video_language import VideoLanguageModule
from tests.config_models import BASE, CONFIGS, FEATURES, chain_of
from tests.fixtures_data import make_clip, make_record, natural_frames, write_shard
from tests.fixtures_models import make_quickstart_parts, make_recipe_parts

FOLLOWS = {"stages/stage2_everything.yaml": "stages/stage1_bridge_only.yaml"}  # begins where the other run ended
TESTED_ELSEWHERE = {
    "model/videollamb_7b.yaml": "test_videollamb_7b.py",  # trains, judges and exports there
    **dict.fromkeys((f"model/{path.name}" for path in (CONFIGS / "model").glob("memory_ov_*")), "test_memory_ov.py"),
    **dict.fromkeys((f"stages/{path.name}" for path in (CONFIGS / "stages").glob("memory_ov_*")), "test_memory_ov.py"),
    "data/length_groups_memory_ov.yaml": "test_memory_ov.py",
    **dict.fromkeys(  # in processes of their own, without a network
        (f"logger/{path.name}" for path in (CONFIGS / "logger").glob("*.yaml")),
        "lightning_modules/monitoring/test_trackers.py",
    ),
    **dict.fromkeys(  # settings of the haystack test
        (f"niavh/{path.name}" for path in (CONFIGS / "niavh").glob("*.yaml")),
        "membridge/haystack_test/test_haystack_configs.py",
    ),
    **dict.fromkeys(  # mixtures for the converter
        ("data/llava_video_178k_short.yaml", "data/llava_video_178k_long.yaml"),
        "datamodules/convert/test_convert_llava_video_178k.py",
    ),
} | {
    f"strategy/{path.name}": "test_strategy_configs.py"
    for path in (CONFIGS / "strategy").glob("*.yaml")
    if path.name not in ("single_device.yaml", "activation_checkpointing.yaml", "accumulate.yaml")
}
NO_CONFIGS_OF_TRAINING = {
    "benchmark": "datamodules/benchmarks/test_benchmark_configs.py",
    "cluster": "lightning_modules/submit/test_submit.py",
    "lmms_eval": "lmms_eval/test_lmms_eval_haystack.py",
}
"""Folders whose files ``train.py`` does not read, and the test that reads them."""
LENGTHS = ("1x", "2x", "4x", "8x")
ANSWERS = ("red", "green", "blue square", "circle", "red square", "green circle", "blue")
DRAWN = ("quickstart_pixels.yaml", "quickstart.yaml")
"""Configs whose runs really draw videos: drawing takes most of a run's time and depends on no other config."""
QUICK = ["--trainer.limit_train_batches=2", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]


def config_arguments(name: str) -> list[str]:
    return [part for file in chain_of(name) for part in ("-c", str(CONFIGS / file))]


def all_configs() -> list[str]:
    paths = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    others = NO_CONFIGS_OF_TRAINING
    return sorted({str(path) for path in paths if path.parts[0] not in others} - TESTED_ELSEWHERE.keys())


OTHER_CHECKPOINTS = {
    "ablation/averaged_bridge.yaml",
    "stages/stage1_bridge_only.yaml",
    "stages/stage2_everything.yaml",
    "stages/two_stages.yaml",
}
"""Configs that change what is stored or how weights begin without a new class: averages, frozen parts, two stages."""


def class_paths(settings: Any) -> set[str]:
    """All classes that a part of a config names."""
    if isinstance(settings, list):
        return set().union(*map(class_paths, settings))
    if not isinstance(settings, dict):
        return set()
    named = {settings["class_path"]} if "class_path" in settings else set()
    return named.union(*map(class_paths, settings.values()))


@functools.cache
def opened_again() -> set[str]:
    """Configs that are the first to use some class in the model, and those whose checkpoints hold something else."""
    chosen, seen = set(OTHER_CHECKPOINTS), set[str]()
    for name in all_configs():
        named = class_paths(yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")).get("model", {}))
        if named - seen:
            chosen.add(name)
            seen |= named
    return chosen


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


def train_config(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, Path]:
    """Train two steps, which ends with a validation; gives the trainer and the checkpoint of the end."""
    if name not in DRAWN:
        monkeypatch.setattr(inspection, "draw_video", lambda video: Figure(figsize=(1, 1)))
    if name in FOLLOWS:
        train.main(["fit", *config_arguments(FOLLOWS[name]), *QUICK, "--trainer.limit_val_batches=0"])
    cli = train.main(["fit", *config_arguments(name), *QUICK, "--trainer.precision=32-true"])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    accuracies = {key for key in cli.trainer.callback_metrics if key.startswith("val/accuracy/")}
    assert accuracies == {f"val/accuracy/{length}" for length in LENGTHS}
    checkpoint = Path(cli.trainer.log_dir or "") / "checkpoints" / "final.ckpt"
    assert (checkpoint / "config.yaml").is_file()
    return cli.trainer, checkpoint


def assert_opens_again(name: str, trained: Trainer, checkpoint: Path) -> None:
    """A validation of the checkpoint by a run of its own gives the losses that training ended with."""
    arguments = [*config_arguments(name), "--trainer.precision=32-true"]
    validated = train.main(["validate", *arguments, "--ckpt_path", str(checkpoint)]).trainer
    for length in LENGTHS:
        loss = f"val/loss/{length}"
        torch.testing.assert_close(validated.callback_metrics[loss], trained.callback_metrics[loss])


@pytest.mark.parametrize("name", all_configs())
def test_config_trains_and_validates(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every config trains, saves and validates; its checkpoint is opened again where that can show something new.

    What opening a checkpoint depends on is the classes that hold weights, what is averaged and what is left out. So
    ``opened_again`` has one config for each; the others set other values of the same options.
    """
    monkeypatch.chdir(workplace)
    trained, checkpoint = train_config(name, monkeypatch)
    if name in opened_again():
        assert_opens_again(name, trained, checkpoint)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(set(all_configs()) - opened_again()))
def test_checkpoint_of_every_other_config_opens_again(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    assert_opens_again(name, *train_config(name, monkeypatch))


@pytest.mark.parametrize(("name", "file"), TESTED_ELSEWHERE.items())
def test_config_that_is_tested_elsewhere_is_named_there(name: str, file: str) -> None:
    assert (CONFIGS / name).is_file()
    assert Path(name).name in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("folder", "file"), NO_CONFIGS_OF_TRAINING.items())
def test_folders_without_configs_of_training_are_tested_elsewhere(folder: str, file: str) -> None:
    assert list((CONFIGS / folder).rglob("*.yaml"))
    assert (Path(__file__).parent / file).is_file()


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
    files = {path.name for path in (CONFIGS / "ablation").glob("*.yaml")}
    assert files - set(named) == set(), "the table of docs/ablations.md lacks a row for these"
    assert set(named) - files == set(), "configs/ablation/ has no such file"
    assert len(named) == len(set(named)), "a file has two rows"


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
    [
        [],
        ["replacing_memory", "memory_readout"],
        ["published_bridge"],
        ["uniform_segments", "cache_readout"],
        ["memory_and_frames", "frame_dropout"],
        ["memory_and_frames", "all_tokens"],
    ],
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
    read = read_config(files, {"model": VideoLanguageModule})["model"]
    merged, trained = (parser.parse_object({"model": model}) for model in (read, expected))
    assert parser.dump(merged) == parser.dump(trained)  # the order of readers too: it is that of their streams
