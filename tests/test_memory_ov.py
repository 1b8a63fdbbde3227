"""configs/model/memory_ov_0.5b.yaml, memory_ov_7b.yaml, their overlays and stages, through the real command line.

Everything is the real thing but the sizes of encoder and language model, which are in their folders.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

import train
from apps.evaluate import command as evaluate
from components.checkpoints.weight_files import WeightFiles
from components.weights.llava_onevision import main as weights
from lightning_modules.evaluation.predictions import read_predictions
from lightning_modules.export import main as export_command
from lightning_modules.video_language import VideoLanguageModule
from tests.components.tiny_onevision import VISION_FACTS
from tests.config_models import CONFIGS
from tests.documentation import blocks_of
from tests.fixtures_data import make_clip
from tests.fixtures_memory_ov import (
    FRAME_SIZE,
    RATES,
    SHARDS,
    SIZES,
    assert_moved_by_rates,
    every_kind_of_sample,
    model_files,
    parts_in,
    stage_file,
    weights_in,
    weights_of_files,
    write_data,
    write_parts,
)

QUICK = [
    "--trainer.max_steps=2",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.log_every_n_steps=1",
    "--data.loading.num_workers=0",
    "--data.loading.batch_size=2",
    "--model.max_new_tokens=2",
]
WITHOUT_VALIDATION = "--trainer.limit_val_batches=0"
KEEP_ALL = "--checkpoint.keep_every_n_steps=1"
MODELS: dict[str, tuple[list[str], list[str]]] = {
    "described": ([], ["memory_ov_stage1.yaml", "memory_ov_stage2.yaml"]),
    "shipped": (["memory_ov_as_shipped.yaml"], ["memory_ov_shipped_stage1.yaml", "memory_ov_shipped_stage2.yaml"]),
}
"""Overlays of a model's config, and its two stages."""
OPTIONS = ["memory_ov_transformer_fuser.yaml", "memory_ov_token_budget.yaml", "memory_ov_scene_tilling.yaml"]


class Trained(NamedTuple):
    """Checkpoints of both stages of one model."""

    first: Path
    second: Path
    metrics: dict[str, float]  # of the second
    size: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parts and data where the configs look for them."""
    made = tmp_path_factory.mktemp("memory_ov")
    write_parts(made)
    write_data(made, every_kind_of_sample(3, 5))
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def fit(files: list[str], *options: str) -> tuple[Path, Any]:
    """Train; the checkpoint of the end, and the trainer."""
    cli = train.main(["fit", *files, *QUICK, *options])
    return Path(cli.trainer.log_dir or "") / "checkpoints/final.ckpt", cli.trainer


# Both sizes have the same settings (the last test), so the other pairs run different files, but no different code.
PAIRS = [("0.5b", "described"), ("7b", "shipped")]
OTHERS = [pytest.param(pair, marks=pytest.mark.nightly) for pair in (("7b", "described"), ("0.5b", "shipped"))]


@pytest.fixture(scope="module", params=[*PAIRS, *OTHERS], ids="-".join)
def trained(request: pytest.FixtureRequest, folder: Path) -> Trained:
    """Two steps of the first stage, then two of the second."""
    size, model = request.param
    overlays, (first, second) = MODELS[model]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        files = model_files(size, *overlays)
        began, _ = fit([*files, *stage_file(first)], WITHOUT_VALIDATION)
        ended, trainer = fit([*files, *stage_file(second)], "--checkpoint.every_n_steps=1", KEEP_ALL)
    assert trainer.global_step == 2
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Trained(folder / began, folder / ended, metrics, size)


@pytest.mark.slow
def test_losses_of_both_stages_are_finite(trained: Trained) -> None:
    losses = {name: value for name, value in trained.metrics.items() if "loss" in name}
    assert {"train/loss", "val/loss/held_out"} <= losses.keys()
    assert torch.isfinite(torch.tensor(list(losses.values()))).all()


@pytest.mark.slow
def test_first_stage_trains_the_memory_alone_where_it_is_as_described(trained: Trained) -> None:
    described = trained.first.parents[1].name == "stage1"
    expected = {"memory", "frames"} if described else set(RATES)
    assert parts_in(weights_in(trained.first)) == expected
    assert parts_in(weights_in(trained.second)) == set(RATES)


@pytest.mark.slow
def test_every_part_begins_where_it_ended_and_moves_by_its_own_rate(trained: Trained, folder: Path) -> None:
    before = weights_of_files(folder, trained.size) | weights_in(trained.first)
    assert_moved_by_rates(before, weights_in(trained.second.with_name("step-00000001.ckpt")))


@pytest.mark.slow
def test_checkpoint_answers_about_videos_pictures_and_text(
    trained: Trained, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--data", SHARDS[-1], "--out", str(tmp_path), "--max-new-tokens", "2"]
    report = evaluate.main(["--checkpoint", str(trained.second), *fixed])
    assert report["accuracy"]["questions"] == 7
    keys = [prediction.key for prediction in read_predictions(tmp_path / "predictions.jsonl")]
    assert keys == ["video3", "video3", "video5", "video5", "image", "words", "more"]
    assert "random weights" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OPTIONS)
def test_options_train(overlay: str, here: Path) -> None:
    files = [*model_files("0.5b", overlay), *stage_file("memory_ov_stage1.yaml")]
    named = f"--trainer.logger.init_args.name={overlay}"
    _, trainer = fit(files, named, WITHOUT_VALIDATION, "--trainer.max_steps=1")
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


@pytest.mark.slow
def test_batches_of_similar_length_have_four_conversations(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = []
    train_on = VideoLanguageModule.training_step

    def note(module: VideoLanguageModule, batch: Any, index: int) -> Tensor:
        batches.append([question.key for question in batch.questions])
        return train_on(module, batch, index)

    monkeypatch.setattr(VideoLanguageModule, "training_step", note)
    overlay = str(CONFIGS / "data/length_groups_memory_ov.yaml")
    files = [*model_files("0.5b"), *stage_file("memory_ov_stage1.yaml"), "-c", overlay]
    options = [option for option in QUICK if "batch_size" not in option]
    named = "--trainer.logger.init_args.name=length_groups"
    train.main(["fit", *files, *options, named, WITHOUT_VALIDATION])
    # Texts without a video are short, so there may be more of them, also beside the videos.
    assert {sum(key.startswith("video") for key in keys) for keys in batches} - {0} == {4}


@pytest.mark.slow
def test_untrained_memory_is_named_before_it_is_evaluated(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--data", SHARDS[-1], "--out", str(tmp_path), "--max-new-tokens", "2"]
    evaluate.main(["--config", str(CONFIGS / "model/memory_ov_0.5b.yaml"), FRAME_SIZE, *fixed])
    assert "runs with random weights of memory and frames" in capsys.readouterr().err


def test_both_sizes_have_the_same_settings() -> None:
    small, large = ((CONFIGS / f"model/memory_ov_{size}.yaml").read_text(encoding="utf-8") for size in SIZES)
    assert yaml.safe_load(small.replace("0.5b", "7b")) == yaml.safe_load(large)


@pytest.mark.slow
def test_trained_model_is_exported_in_the_authors_names(trained: Trained, here: Path, tmp_path: Path) -> None:
    frozen = ["--frozen", f"weights/llava_onevision_{trained.size}"]
    weights(["export", str(trained.second), str(tmp_path / "back"), *frozen])
    weights(["import", str(tmp_path / "back"), str(tmp_path / "again"), *VISION_FACTS])
    for part in ("memory", "frames", "newline"):
        again, stored = WeightFiles(tmp_path / f"again/{part}.safetensors"), weights_in(trained.second)
        own = {name.removeprefix(f"model.{part}."): each for name, each in stored.items() if f".{part}." in name}
        assert again.keys() == own.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in own.items())


@pytest.mark.slow
def test_python_of_the_page_answers_about_a_file(
    trained: Trained, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines in docs/memory_augmented_vlm.md open the model's folder, without the configs and the imported parts."""
    export_command([str(trained.second), str(tmp_path / "runs/memory_ov")])
    (tmp_path / "video.mp4").write_bytes(make_clip(5))
    monkeypatch.chdir(tmp_path)
    (block,) = blocks_of("docs/memory_augmented_vlm.md", "python")
    defined: dict[str, Any] = {}
    exec(block.text, defined)  # the page's own code
    assert {"memory", "frames"} == set(defined["model"].readers)
