"""The checkpoint of a training run becomes a checkpoint in the authors' names."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.bridges.grid_memory import GridMemory
from components.checkpoints.frozen_parts_check import take_fingerprints
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.saving import Content, Ranks, write_checkpoint
from components.checkpoints.weight_files import WeightFiles
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.model import VideoLanguageModel
from components.readers.fine_frames import FineFrames
from components.streams import StreamReader
from components.weights.llava_onevision import main
from tests.components.tiny_onevision import (
    VISION_FACTS,
    build_from_parts,
    make_onevision,
    original_memory,
    original_tensors,
    save_onevision,
)

WIDTH = 32


class Run(nn.Module):
    """A training run's module, as far as checkpoints need it."""

    def __init__(self, model: VideoLanguageModel) -> None:
        super().__init__()
        self.model = model


def build_memory_vlm(parts: Path, *, weights: bool = True, **changes: Any) -> VideoLanguageModel:
    stored = {name: str(parts / f"{name}.safetensors") if weights else None for name in ("memory", "frames")}
    memory = GridMemory(WIDTH, WIDTH, weights=stored["memory"])
    shown = {"projection": "none", "frame_positions": True, "type_embedding": True}
    frames = FineFrames(WIDTH, WIDTH, weights=stored["frames"], **shown)  # type: ignore[arg-type]
    readers = {"memory": StreamReader(memory), "frames": StreamReader(frames)}
    prompt = "a summary:<memory><newline>frames:<frames><newline>"
    return build_from_parts(parts, readers=readers, visual_prompt=prompt, **changes)


def train(model: VideoLanguageModel, trained: Collection[str]) -> None:
    """Let only these parts train, and change their weights."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        wanted = name.split(".")[0] in trained and (parameter.requires_grad or "lora_" in name)
        parameter.requires_grad_(wanted)
        if wanted:
            parameter.data += 0.1 * torch.randn_like(parameter)


def save_run(model: VideoLanguageModel, path: Path) -> Path:
    run, access = Run(model), DirectAccess(None, torch.device("cpu"))
    left_out = {name: each for name, each in run.named_parameters() if not each.requires_grad}
    fingerprints = take_fingerprints(left_out, access, lambda values: values)
    write_checkpoint(
        path,
        run,
        access,
        Content({"global_step": 3}, list(left_out), None, fingerprints),
        Ranks(0, 1, lambda agree: agree),
    )
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported LLaVA-OneVision, without memory."""
    folder = tmp_path_factory.mktemp("start")
    save_onevision(make_onevision(seed=9, tied=True), folder / "source", "original")
    main(["import", str(folder / "source"), str(folder / "parts"), *VISION_FACTS])
    return folder / "parts"


def state_of(model: VideoLanguageModel, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in model.state_dict().items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    "trained", [("memory", "frames", "newline", "language_model"), ("memory", "frames")], ids=["all", "memory alone"]
)
def test_a_run_comes_back_from_its_export(trained: tuple[str, ...], parts: Path, tmp_path: Path) -> None:
    model = build_memory_vlm(parts, weights=False)
    train(model, trained)
    checkpoint = save_run(model, tmp_path / "last.ckpt")
    main(["export", str(checkpoint), str(tmp_path / "back"), "--frozen", str(parts)])
    model_names = original_tensors(make_onevision(tied=True)).keys()
    assert WeightFiles(tmp_path / "back").keys() == {*model_names, *original_memory()}
    main(["import", str(tmp_path / "back"), str(tmp_path / "again"), *VISION_FACTS])
    again = build_memory_vlm(tmp_path / "again")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_folder_of_a_trained_model_is_exported_too(parts: Path, tmp_path: Path) -> None:
    model = build_memory_vlm(parts, weights=False)
    train(model, ("memory", "frames", "newline", "language_model"))
    model.save_pretrained(tmp_path / "model")
    main(["export", str(tmp_path / "model"), str(tmp_path / "back"), "--frozen", str(parts)])
    checkpoint = save_run(model, tmp_path / "last.ckpt")
    main(["export", str(checkpoint), str(tmp_path / "expected"), "--frozen", str(parts)])
    stored, expected = WeightFiles(tmp_path / "back"), WeightFiles(tmp_path / "expected")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


def test_adapters_are_merged(parts: Path, tmp_path: Path) -> None:
    path = str(parts / "language_model")
    model = build_memory_vlm(
        parts, weights=False, language_model=HuggingFaceCausalLM(path, lora=LoraSettings(rank=2, alpha=8))
    )
    train(model, ("memory", "frames", "language_model"))
    checkpoint = save_run(model, tmp_path / "last.ckpt")
    main(["export", str(checkpoint), str(tmp_path / "back"), "--frozen", str(parts), "--lora-alpha", "8"])
    layer = model.language_model.model.model.layers[0].mlp.up_proj
    merged = layer.weight + 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    stored = WeightFiles(tmp_path / "back")
    torch.testing.assert_close(stored["model.layers.0.mlp.up_proj.weight"], merged.detach(), atol=1e-6, rtol=0)
    assert "model.embed_tokens.weight" in stored
    with pytest.raises(ValueError, match="--lora-alpha"):
        main(["export", str(checkpoint), str(tmp_path / "other"), "--frozen", str(parts)])


def test_weights_that_did_not_train_must_be_given_and_the_same(parts: Path, tmp_path: Path) -> None:
    model = build_memory_vlm(parts, weights=False)
    train(model, ("memory", "frames"))
    checkpoint = save_run(model, tmp_path / "last.ckpt")
    main(["export", str(checkpoint), str(tmp_path / "memory.safetensors")])
    assert load_file(tmp_path / "memory.safetensors").keys() == original_memory().keys()
    with pytest.raises(FileNotFoundError, match="has no projector"):
        main(["export", str(checkpoint), str(tmp_path / "back"), "--part", "projector"])
    save_onevision(make_onevision(seed=10, tied=True), tmp_path / "source", "original")
    main(["import", str(tmp_path / "source"), str(tmp_path / "other"), *VISION_FACTS])
    with pytest.raises(
        ValueError, match=r"in the --frozen folder is not the weight that .*last\.ckpt was trained with"
    ):
        main(["export", str(checkpoint), str(tmp_path / "back"), "--frozen", str(tmp_path / "other")])


def test_a_run_of_other_parts_is_refused(parts: Path, tmp_path: Path) -> None:
    readers = {"seen": StreamReader(FineFrames(WIDTH, WIDTH, projection="none", type_embedding=True))}
    model = build_from_parts(parts, readers=readers, visual_prompt="<seen><newline>")
    train(model, ("seen", "newline"))
    checkpoint = save_run(model, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"unknown tensor model\.seen\.type_embedding\.vector"):
        main(["export", str(checkpoint), str(tmp_path / "back"), "--frozen", str(parts)])
    allowed = ["--allow-unknown", "model.seen.*"]
    main(["export", str(checkpoint), str(tmp_path / "back"), "--frozen", str(parts), *allowed])
    assert torch.equal(WeightFiles(tmp_path / "back")["model.image_newline"], model.newline.vector)  # type: ignore[union-attr]
