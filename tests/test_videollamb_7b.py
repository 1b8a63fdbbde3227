"""configs/model/videollamb_7b.yaml as docs/videollamb.md uses it: published checkpoint -> train, judge, export -> back.

Everything is the real thing but the sizes, which no file of the config names: they are in the imported folder.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import train
from apps.evaluate import command as evaluate
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.checkpoints.saving import Content, Ranks, write_checkpoint
from components.checkpoints.weight_files import WeightFiles
from components.losses import EverySegmentLoss
from components.model import VideoLanguageModel, text_of
from components.weights.videollamb import main as weights
from datamodules.batch import Batch, Sample, collate
from datamodules.order.training_order import Draw
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from lightning_modules.evaluation.predictions import read_predictions
from lightning_modules.export import export
from lightning_modules.trained_model import load_model
from tests.fixtures_data import RawSample, make_clip, make_image, make_record, write_shard
from tests.fixtures_videollamb import ENCODER_FACTS, write_original, write_start

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILE = str(CONFIGS / "model/videollamb_7b.yaml")
MERGED = ["-c", FILE]
SHORT = ["--trainer.max_steps=1", "--trainer.accumulate_grad_batches=1", "--data.loading.num_workers=0"]
FEW = ["--model.max_new_tokens=2", *SHORT]
UNUSED = re.compile(r"memory_tokens|projector\.layers\.\d+\.crossattention|retrieval\.layers\.\d+\.selfattention")


class Place(NamedTuple):
    """A folder with imported weights and data where the config looks for them, and a run of one step."""

    folder: Path
    checkpoint: Path


def every_kind_of_sample() -> list[RawSample]:
    """Videos of one, more than one and several windows, an image, plain text."""
    asked = [("which colour ?", "red"), ("how many ?", "3")]
    videos: list[RawSample] = [
        (f"video{frames}", make_record(asked), make_clip(frames, width=96, height=64), "mp4") for frames in (3, 11, 20)
    ]
    image = ("image", make_record([("what is shown ?", "a chat")]), make_image(90, width=80), "png")
    return [*videos, image, ("words", make_record([("say hello", "hello")], media=False), None, None)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    write_original(folder / "published")
    samples = every_kind_of_sample()
    (folder / "data/videollamb_7b").mkdir(parents=True)
    write_shard(folder / "data/videollamb_7b/train-000000.tar", [samples[0], *samples[3:]])
    write_shard(folder / "data/videollamb_7b/validation-000000.tar", samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        weights(["import", "published", "weights/videollamb_7b", *ENCODER_FACTS])
        cli = train.main(["fit", *MERGED, "--data.train=[{shards: data/videollamb_7b/train-*.tar}]", *FEW])
        assert cli.trainer.global_step == 1
        assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
        assert torch.isfinite(cli.trainer.callback_metrics["val/loss/held_out"])
    return Place(folder, Path(cli.trainer.log_dir or "") / "checkpoints" / "final.ckpt")


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(place.folder)
    return place


def weights_in(checkpoint: Path) -> dict[str, Tensor]:
    stored = RunCheckpoint(checkpoint)
    return {name: stored.weight(name) for name in stored.parameters}


def built(cli: Any) -> VideoLanguageModel:
    cli.model.configure_model()
    model: VideoLanguageModel = cli.model.built
    return model.eval()


def test_training_starts_from_the_imported_weights(here: Place) -> None:
    imported = WeightFiles(here.folder / "weights/videollamb_7b/language_model")
    trained = weights_in(here.checkpoint)
    assert {name.split(".")[1] for name in trained} == {"bridge", "language_model"}  # the encoder is frozen
    prefix = "model.language_model.model."
    language_model = {name.removeprefix(prefix): each for name, each in trained.items() if name.startswith(prefix)}
    before = {name: imported[name].float() for name in language_model}
    for name, tensor in language_model.items():  # one step of AdamW moves a weight by its learning rate at most
        torch.testing.assert_close(tensor, before[name], atol=3e-5, rtol=0)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in language_model.items())


@pytest.mark.parametrize("what", ["pretrained", "checkpoint"])
def test_weights_are_validated_without_and_with_a_checkpoint(what: str, here: Place) -> None:
    chosen = ["--ckpt_path", str(here.checkpoint)] if what == "checkpoint" else []
    cli = train.main(["validate", *MERGED, *FEW, *chosen])
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss/held_out"])
    assert {"val/accuracy", "val/accuracy/held_out"} <= set(cli.trainer.callback_metrics)


@pytest.mark.parametrize("what", ["pretrained", "checkpoint"])
def test_evaluate_answers_about_videos_images_and_text(what: str, here: Place, tmp_path: Path) -> None:
    judged = ["--config", FILE] if what == "pretrained" else ["--checkpoint", str(here.checkpoint)]
    fixed = ["--data", "data/videollamb_7b/validation-*.tar", "--out", str(tmp_path), "--max-new-tokens", "2"]
    report = evaluate.main([*judged, *fixed])
    assert report["accuracy"]["questions"] == 8
    keys = [prediction.key for prediction in read_predictions(tmp_path / "predictions.jsonl")]
    assert keys == ["video3", "video3", "video11", "video11", "video20", "video20", "image", "words"]


def test_the_folder_of_the_model_needs_none_of_the_imported_weights(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(here.checkpoint, tmp_path / "out")
    expected = load_model(here.checkpoint).state_dict()
    monkeypatch.chdir(tmp_path)  # the config names weights relative to the working directory
    opened = VideoLanguageModel.from_pretrained("out").state_dict()
    assert opened.keys() == expected.keys()
    assert [name for name, weight in expected.items() if not torch.equal(weight, opened[name])] == []
    data = str(here.folder / "data/videollamb_7b/validation-*.tar")
    report = evaluate.main(["--checkpoint", "out", "--data", data, "--out", "answers", "--max-new-tokens", "2"])
    assert report["accuracy"]["questions"] == 8


def test_evaluate_needs_a_checkpoint_or_a_config(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--data", "data/videollamb_7b/validation-*.tar", "--out", "out"])
    assert "give --checkpoint, or --config" in capsys.readouterr().err


def test_mixed_batch_equals_its_samples(here: Place) -> None:
    """Videos of different lengths, an image and text through the whole model, in one batch and one by one."""
    float32 = ["--model.encoder.init_args.dtype=float32", "--trainer.precision=32-true"]
    cli = train.main(["validate", *MERGED, *FEW, *float32, "--trainer.limit_val_batches=0"])
    model = built(cli)
    reader = ShardReader([load_index(Path("data/videollamb_7b/validation-000000.tar"))])
    dataset = cli.datamodule.dataset(reader, train=False)
    samples: list[Sample] = [dataset[Draw(index, index)] for index in range(len(reader))]
    batch = collate(samples)
    assert batch.frame_counts.tolist() == [3, 11, 16, 1]
    together, text = model.visual_tokens(batch), batch.video_index[:, 0]
    with torch.no_grad():
        losses = answer_losses(model, batch)
    start = row = 0
    for sample in samples:
        alone = collate([sample])
        if sample.media:
            expected = model.visual_tokens(alone)
            torch.testing.assert_close(
                together.tokens[row][together.mask[row]], expected.tokens[0][expected.mask[0]], atol=2e-5, rtol=1e-4
            )
            row += 1
        with torch.no_grad():
            single = answer_losses(model, alone)
        torch.testing.assert_close(losses[start : start + len(single)], single, atol=1e-4, rtol=1e-5)
        start += len(single)
    assert start == len(text)
    assert together.mask.sum(dim=1).tolist()[-1] == 144  # an image is one segment of one frame


def answer_losses(model: VideoLanguageModel, batch: Batch) -> Tensor:
    losses: Tensor = model.language_model(model.visual_tokens(batch), text_of(batch)).nll
    return losses


def test_checkpoint_goes_back_to_the_published_names_and_in_again(here: Place, tmp_path: Path) -> None:
    trained = weights_in(here.checkpoint)
    half = ["--dtype", "float16"]
    weights(["export", str(here.checkpoint), str(tmp_path / "published"), "--frozen", "weights/videollamb_7b", *half])
    published, exported = WeightFiles(here.folder / "published"), WeightFiles(tmp_path / "published")
    plain = {name for name in published if "lora_" not in name and "position_ids" not in name}
    clean = {name.replace("base_model.model.", "").replace(".base_layer.", ".") for name in plain}
    assert exported.keys() == clean
    assert torch.equal(
        exported["model.mm_projector.projector.proj.0.weight"], trained["model.bridge.projection.weight"].half()
    )
    stated = json.loads((tmp_path / "published" / "config.json").read_text())
    assert (stated["mm_projector_type"], stated["torch_dtype"]) == ("rmt_r_transformer1x", "float16")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / "published" / name).read_bytes() == (here.folder / "published" / name).read_bytes()
    # Of the layers, config.json states those of bridge and language model.
    weights(["import", str(tmp_path / "published"), str(tmp_path / "ours"), *ENCODER_FACTS])
    bridge = WeightFiles(tmp_path / "ours" / "bridge.safetensors")
    assert {f"model.bridge.{name}" for name in bridge} == {name for name in trained if ".bridge." in name}
    assert all(torch.equal(bridge[name], trained[f"model.bridge.{name}"].half()) for name in bridge)
    language_model = WeightFiles(tmp_path / "ours" / "language_model")
    prefix = "model.language_model.model."
    assert all(torch.equal(language_model[name], trained[prefix + name].half()) for name in language_model)
    frozen = WeightFiles(here.folder / "weights/videollamb_7b/image_encoder")
    image = WeightFiles(tmp_path / "ours" / "image_encoder")
    assert all(torch.equal(image[name], frozen[name].half()) for name in frozen)


def test_lone_projector_is_exported_from_a_checkpoint(here: Place, tmp_path: Path) -> None:
    target = tmp_path / "mm_projector.bin"
    weights(["export", str(here.checkpoint), str(target), "--part", "bridge", "--dtype", "float16"])
    exported = WeightFiles(target)
    assert len(exported) == 50
    assert {exported[name].dtype for name in exported} == {torch.float16}
    assert all(bool(exported[name].any()) != bool(UNUSED.search(name)) for name in exported if "bias" not in name)


def test_parts_that_did_not_train_are_named(here: Place, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"has no video_encoder.*--frozen FOLDER"):
        weights(["export", str(here.checkpoint), str(tmp_path / "out"), "--part", "video_encoder"])
    assert not (tmp_path / "out").exists()


def test_adapters_are_merged_into_what_they_were_trained_beside(here: Place, tmp_path: Path) -> None:
    more = ["--model.language_model.init_args.lora={rank: 16, alpha: 32}", "--trainer.limit_val_batches=0"]
    cli = train.main(["fit", *MERGED, *FEW, *more])
    checkpoint = str(Path(cli.trainer.log_dir or "") / "checkpoints" / "final.ckpt")
    with pytest.raises((ValueError, FileNotFoundError), match=r"has LoRA adapters.*--frozen.*--lora-alpha"):
        weights(["export", checkpoint, str(tmp_path / "out")])
    weights(["export", checkpoint, str(tmp_path / "out"), "--frozen", "weights/videollamb_7b", "--lora-alpha", "32"])
    exported, before = WeightFiles(tmp_path / "out"), WeightFiles(here.folder / "published")
    state = weights_in(Path(checkpoint))
    path = "model.layers.1.self_attn.v_proj"
    down, up = (state[f"model.language_model.model.{path}.lora_{side}.default.weight"].float() for side in "AB")
    assert up.any()
    torch.testing.assert_close(exported[f"{path}.weight"], before[f"{path}.weight"].float() + 2 * up @ down)
    assert torch.equal(exported["lm_head.weight"], before["lm_head.weight"])


def test_untrained_bridge_learns_before_a_frozen_language_model(here: Place) -> None:
    """The options that docs/videollamb.md gives for one GPU."""
    frozen = ["--model.language_model.init_args.freeze=true", "--model.language_model.init_args.dtype=bfloat16"]
    rates = "--model.optimization.learning_rates={bridge: 2.0e-4}"
    more = ["--model.bridge.init_args.weights=null", "--trainer.limit_val_batches=0"]
    cli = train.main(["fit", *MERGED, *FEW, *frozen, rates, *more])
    parts = cli.model.built
    assert {parameter.dtype for parameter in parts.language_model.parameters()} == {torch.bfloat16}
    assert {name for name, each in parts.named_children() if any(p.requires_grad for p in each.parameters())} == {
        "bridge"
    }
    assert parts.bridge.initial_memory.abs().max() <= 2.1e-4  # began at zero and took one step


def test_training_starts_from_llava_and_languagebind(
    tmp_path: Path, here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the authors started with; its encoders keep LanguageBind's names and are not exported."""
    write_start(tmp_path)
    shutil.copytree("data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    allowed = ["--allow-unknown", "model.vision_tower.*"]
    weights(["import", "llava-v1.5-7b", "weights/videollamb_7b", "--part", "language_model", *allowed])
    shutil.copytree("LanguageBind_Video_merge", "weights/videollamb_7b/video_encoder")
    shutil.copytree("LanguageBind_Image", "weights/videollamb_7b/image_encoder")
    untrained = ["--model.bridge.init_args.weights=null", "--trainer.limit_val_batches=0"]
    cli = train.main(["fit", *MERGED, *FEW, *untrained])
    checkpoint = str(Path(cli.trainer.log_dir or "") / "checkpoints" / "final.ckpt")
    export = ["export", checkpoint, "out", "--frozen", "weights/videollamb_7b"]
    with pytest.raises((ValueError, FileNotFoundError), match=r"unknown tensor vision_model\."):
        weights(export)
    assert not Path("out").exists()
    weights([*export, "--part", "bridge", "--part", "language_model"])
    exported, trained = WeightFiles(Path("out")), weights_in(Path(checkpoint))
    assert {"mm_projector" in name for name in exported} == {True, False}
    assert torch.equal(exported["lm_head.weight"], trained["model.language_model.model.lm_head.weight"])


def test_every_segment_trains_the_imported_model(here: Place) -> None:
    every = ["-c", str(CONFIGS / "ablation/every_segment_loss.yaml")]
    cli = train.main(["fit", *MERGED, *every, *FEW, "--trainer.limit_val_batches=0"])
    assert isinstance(cli.model.built.loss_schedule, EverySegmentLoss)
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])


def test_other_models_checkpoint_is_refused(here: Place, tmp_path: Path) -> None:
    wrong = (ValueError, FileNotFoundError)
    bridge = nn.ParameterDict({"gate": nn.Parameter(torch.ones(1))})
    module = nn.ModuleDict({"model": nn.ModuleDict({"bridge": bridge, "head": nn.Linear(1, 1, bias=False)})})
    content = Content({"global_step": 0}, [], None)
    access = DirectAccess(None, torch.device("cpu"))
    write_checkpoint(tmp_path / "other.ckpt", module, access, content, Ranks(0, 1, bool))
    with pytest.raises(wrong, match=r"unknown tensor model\.head\.weight"):
        weights(["export", str(tmp_path / "other.ckpt"), str(tmp_path / "out.bin")])
    with pytest.raises(wrong, match=r"missing tensor initial_memory[\s\S]*unknown tensor gate"):
        weights(["export", str(tmp_path / "other.ckpt"), str(tmp_path / "out.bin"), "--allow-unknown", "model.head.*"])
    torch.save({"state_dict": {}}, tmp_path / "none.ckpt")
    with pytest.raises(wrong, match="is a single file; training writes folders now"):
        weights(["export", str(tmp_path / "none.ckpt"), str(tmp_path / "out.bin")])
    with pytest.raises(wrong, match="there is no checkpoint"):
        weights(["export", str(tmp_path / "gone.ckpt"), str(tmp_path / "out.bin")])
