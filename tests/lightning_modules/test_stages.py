"""From one stage of training to the next: which parts begin with what, and what is refused by name."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import train
from components.model import VideoLanguageModel
from lightning_modules.export import export
from lightning_modules.trained_model import load_model
from tests.components.tiny_language import make_model_folder
from tests.fixtures_data import make_clip, make_record, write_shard
from tests.fixtures_models import IMAGE_SIZE, make_part_folders
from tests.fixtures_training import write_run_config

LORA = {"rank": 2, "alpha": 8, "dropout": 0.0}


class Runs(NamedTuple):
    """A run that trained everything, one that trained adapters, and exports of both."""

    folder: Path
    config: Path
    full: Path
    lora: Path


def fit(runs_folder: Path, config: Path, name: str, **changes: Any) -> VideoLanguageModel:
    """Train for a step at rate zero, so that what a run begins with can be seen."""
    settings = yaml.safe_load(config.read_text())
    model, language_model = settings["model"], settings["model"]["language_model"]["init_args"]
    language_model |= changes.pop("language_model", {})
    model["optimization"]["learning_rates"] = changes.pop("rates", {"bridge": 1e-12, "language_model": 1e-12})
    model |= changes
    settings["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}
    settings["trainer"]["logger"]["init_args"]["name"] = name
    path = runs_folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    built: VideoLanguageModel = train.main(["fit", "-c", str(path)]).model.built.eval()
    return built


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    clip = make_clip(6, width=IMAGE_SIZE, height=IMAGE_SIZE)
    shard = str(write_shard(folder / "train.tar", [(f"v{i}", make_record(), clip, "mp4") for i in range(3)]))
    parts = make_part_folders(folder)
    config = write_run_config(folder, parts, {"train": shard, "validation": shard, "predict": shard})
    rates = {"bridge": 0.01, "language_model": 0.05}
    checkpoints = {}
    for name, options in (("full", {}), ("lora", {"lora": LORA})):
        fit(folder, config, name, language_model=options, rates=rates)
        checkpoints[name] = folder / name / "version_0/checkpoints/final.ckpt"
        export(checkpoints[name], folder / f"{name}-export", merge_adapters=True)
    export(checkpoints["lora"], folder / "adapters-export")
    return Runs(folder, config, checkpoints["full"], checkpoints["lora"])


def change_of(model: VideoLanguageModel, base: Path) -> torch.Tensor:
    """How far a layer of a model with or without adapters is from the weights of a folder."""
    layer: Any = model.language_model.model.model.layers[0].self_attn.q_proj
    weight = (
        layer.base_layer.weight + layer.get_delta_weight("default") if hasattr(layer, "base_layer") else layer.weight
    )
    other: Any = load_model_folder(base).model.layers[0].self_attn.q_proj
    return (weight - other.weight).detach()


def load_model_folder(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def test_adapters_cannot_be_put_beside_weights_that_have_them_already(runs: Runs) -> None:
    merged = str(runs.folder / "lora-export/language_model")
    with pytest.raises(ValueError, match=r"frozen weights are not those that .*model\.language_model .*lora-export"):
        fit(
            runs.folder,
            runs.config,
            "twice",
            language_model={"path": merged, "lora": LORA},
            initial_weights=str(runs.lora),
        )


@pytest.mark.parametrize("second", [{}, {"lora": LORA}], ids=["everything", "adapters"])
@pytest.mark.parametrize("first", ["lora", "full"])
def test_second_stage_begins_with_the_merged_language_model_and_the_named_parts(
    runs: Runs, first: str, second: dict[str, Any]
) -> None:
    checkpoint: Path = getattr(runs, first)
    merged = runs.folder / f"{first}-export/language_model"
    name = f"second-{first}-{len(second)}"
    parts = {"bridge": str(checkpoint)}
    began = fit(runs.folder, runs.config, name, language_model={"path": str(merged), **second}, initial_weights=parts)
    before = load_model(checkpoint)
    torch.testing.assert_close(
        change_of(began, runs.folder / "language_model"), change_of(before, runs.folder / "language_model")
    )
    for name, weight in before.bridge.named_parameters():
        torch.testing.assert_close(began.bridge.get_parameter(name), weight)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("full", {"lora": LORA}, r"has LoRA adapters, and the checkpoint was trained without: drop lora, or export it"),
        ("lora", {}, r"checkpoint has LoRA adapters, and the configured model has not: .*initial_weights='\{bridge: "),
    ],
)
def test_stages_that_do_not_fit_say_how_they_do(runs: Runs, first: str, second: dict[str, Any], message: str) -> None:
    checkpoint = str(getattr(runs, first))
    with pytest.raises(ValueError, match=message):
        fit(runs.folder, runs.config, "unfit", language_model=second, initial_weights=checkpoint)


def test_adapters_go_on_from_adapters_and_from_an_export_of_them(runs: Runs) -> None:
    before = load_model(runs.lora)
    for name, source in (("again", runs.lora), ("exported", runs.folder / "adapters-export")):
        began = fit(runs.folder, runs.config, name, language_model={"lora": LORA}, initial_weights=str(source))
        base = runs.folder / "language_model"
        torch.testing.assert_close(change_of(began, base), change_of(before, base))


def test_part_of_an_export_begins_a_run(runs: Runs) -> None:
    parts = {"bridge": str(runs.folder / "full-export")}
    began = fit(runs.folder, runs.config, "bridge", initial_weights=parts)
    for name, weight in load_model(runs.full).bridge.named_parameters():
        torch.testing.assert_close(began.bridge.get_parameter(name), weight)
    assert not change_of(began, runs.folder / "language_model").abs().max() > 1e-6


def test_export_is_told_from_a_checkpoint_where_a_run_is_resumed(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"It is an export.*--model\.initial_weights=.*evaluate\.py --checkpoint"):
        train.main(["fit", "-c", str(runs.folder / "full.yaml"), "--ckpt_path", str(runs.folder / "full-export")])


def test_language_model_folder_as_initial_weights_is_told(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"folder of one part: name it as that part's path"):
        fit(runs.folder, runs.config, "folder", initial_weights=str(runs.folder / "language_model"))


def validate(runs: Runs, name: str, *options: str) -> None:
    checkpoint = str(runs.folder / name / "version_0/checkpoints/final.ckpt")
    quiet = ["--trainer.logger=false", f"--trainer.default_root_dir={runs.folder / 'validated'}"]
    train.main(["validate", "-c", str(runs.folder / f"{name}.yaml"), "--ckpt_path", checkpoint, *quiet, *options])


def test_validation_with_another_alpha_is_refused_by_name(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"model\.language_model\.init_args\.lora\.alpha: 8 in the checkpoint, 64 now"):
        validate(runs, "lora", "--model.language_model.init_args.lora.alpha=64")


def test_run_resumed_with_other_settings_is_refused_by_name(runs: Runs) -> None:
    more = ["--trainer.max_steps=2", "--model.segmenter.init_args.num_segments=2", "--model.encoder.init_args.layer=1"]
    with pytest.raises(ValueError, match=r"encoder\.init_args\.layer: -1 .*segmenter\.init_args\.num_segments: 3 in"):
        train.main(["fit", "-c", str(runs.folder / "full.yaml"), "--ckpt_path", str(runs.full), *more])


def test_other_tokenizer_or_template_is_refused_by_name(runs: Runs, tmp_path: Path) -> None:
    copy = make_model_folder(tmp_path / "copy", max_position_embeddings=256)
    validate(runs, "lora", f"--data.tokenizer={copy}")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    message = r"'.*copy' is not the tokenizer of the language model .*\(different: chat template\)"
    with pytest.raises(ValueError, match=message):
        validate(runs, "lora", f"--data.tokenizer={copy}")
    message = r"the tokenizer in '.*copy' .* another chat template\. The same text"
    with pytest.raises(ValueError, match=message):
        validate(runs, "lora", f"--data.tokenizer={copy}", f"--model.language_model.init_args.path={copy}")


def test_frozen_weights_of_another_folder_are_refused_wherever_a_checkpoint_is_opened(
    runs: Runs, tmp_path: Path
) -> None:
    same = make_model_folder(tmp_path / "same", max_position_embeddings=256)
    other = make_model_folder(tmp_path / "other", seed=5, max_position_embeddings=256)
    path = "--model.language_model.init_args.path"
    validate(runs, "lora", f"{path}={same}")
    message = r"frozen weights are not those .*model\.language_model .*is now from '.*other'"
    with pytest.raises(ValueError, match=message):
        validate(runs, "lora", f"{path}={other}")
    settings = yaml.safe_load((runs.folder / "lora.yaml").read_text())
    settings["model"]["language_model"]["init_args"]["path"] = str(other)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    for opened in (runs.lora, runs.folder / "adapters-export"):
        with pytest.raises(ValueError, match=message):
            load_model(opened, config=tmp_path / "other.yaml")


def test_random_language_model_that_is_frozen_is_in_the_checkpoint(runs: Runs) -> None:
    frozen = {"weights": "random", "freeze": True}
    trained = fit(runs.folder, runs.config, "random", language_model=frozen, rates={"bridge": 1e-3})
    torch.manual_seed(99)
    loaded = load_model(runs.folder / "random/version_0/checkpoints/final.ckpt")
    for name, weight in trained.language_model.named_parameters():
        assert torch.equal(loaded.language_model.get_parameter(name), weight), name


def test_dtype_of_an_exported_language_model_is_in_its_config_and_files_follow_the_umask(
    runs: Runs, tmp_path: Path
) -> None:
    export(runs.lora, tmp_path / "out", merge_adapters=True, dtype="bfloat16")
    loaded = load_model_auto(tmp_path / "out/language_model")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def load_model_auto(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def test_changed_file_of_an_export_is_found(runs: Runs, tmp_path: Path) -> None:
    export(runs.full, tmp_path / "out")
    weights = tmp_path / "out/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"out was changed or damaged after it was written: model\.safetensors"):
        load_model(tmp_path / "out")
