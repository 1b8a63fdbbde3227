import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.encoders.languagebind_transformer import WINDOW_FRAMES, FrameWindows
from components.encoders.languagebind_weights import load_vision_transformer
from tests.components.encoders.languagebind_folders import (
    RECORDED,
    TENSORS,
    WEIGHTS,
    Folders,
    Weights,
    assert_close,
    build,
    image_weights,
    lora_weights,
    random_frames,
    recorded_state,
    write_folder,
    write_folders,
)

STEPS_PER_UNIT = 32  # pixels were recorded as integers
CPU = torch.device("cpu")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return write_folders(tmp_path)


def recorded_pixels(case: str) -> Tensor:
    """Normalised frames ``[F, 3, H, W]`` of a recording."""
    pixels = TENSORS[f"{case}.pixel_int8"].float() / STEPS_PER_UNIT
    return pixels.transpose(1, 2).flatten(0, 1) if pixels.ndim == 5 else pixels


@torch.no_grad()
def hidden_states(folder: Path, case: str) -> list[Tensor]:
    pixels = recorded_pixels(case)
    temporal = case.startswith("video")
    lengths = [min(WINDOW_FRAMES, len(pixels) - start) for start in range(0, len(pixels), WINDOW_FRAMES)]
    windows = FrameWindows.of_lengths(lengths, CPU) if temporal else None
    transformer = load_vision_transformer(str(folder), layer=-1, temporal=temporal, dtype=torch.float32)
    return list(transformer.hidden_states(pixels, windows))


def assert_recorded(states: list[Tensor], case: str) -> None:
    assert len(states) == RECORDED["cases"][case]["n_hidden_states"]
    for layer, state in enumerate(states):
        torch.testing.assert_close(state[:, ::3], recorded_state(case, layer), atol=1.5e-5, rtol=0)


@pytest.mark.parametrize("case", ["video_t8", "video_t16"])
def test_video_states_are_those_of_the_original(case: str, folders: Folders) -> None:
    assert_recorded(hidden_states(folders.video, case), case)


def test_image_states_are_those_of_the_original(folders: Folders) -> None:
    assert_recorded(hidden_states(folders.image, "image"), "image")


@pytest.mark.parametrize("with_base_layer", [True, False])
def test_merged_adapters_give_the_states_of_the_original(with_base_layer: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lora", lora_weights(with_base_layer), lora_r=2, lora_alpha=16)
    assert_recorded(hidden_states(folder, "image_lora"), "image_lora")


def test_adapters_change_the_states(folders: Folders) -> None:
    plain = hidden_states(folders.image, "image_lora")[-1]
    assert not torch.allclose(plain[:, ::3], recorded_state("image_lora", 3), atol=1e-2)


def test_layers_after_the_chosen_one_are_neither_built_nor_needed(folders: Folders) -> None:
    for folder in folders:
        weights = load_file(folder / "model.safetensors")
        needed = {name: t for name, t in weights.items() if "layers.2" not in name and "post_layernorm" not in name}
        save_file(needed, folder / "model.safetensors")
    encoder = build(folders)
    assert not any("layers.2" in name for name, _ in encoder.named_parameters())
    with pytest.raises(ValueError, match=r"missing encoder\.layers\.2\.layer_norm1\.bias"):
        build(folders, layer=-1)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3},
        {"image_size": 42, "patch_size": 7, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-6},
    ],
)
def test_sizes_come_from_the_configuration(settings: dict[str, Any], tmp_path: Path) -> None:
    config = RECORDED["vision_config"] | settings
    for name, weights in (("video", WEIGHTS), ("image", image_weights())):
        generator = torch.Generator().manual_seed(0)
        wanted = {
            key: torch.randn(resized(key, tuple(tensor.shape), config), generator=generator) * 0.2
            for key, tensor in weights.items()
            if "layers.2" not in key or config["num_hidden_layers"] == 3
        }
        write_folder(tmp_path / name, wanted, **settings)
    encoder = build(Folders(tmp_path / "video", tmp_path / "image"))
    features = encoder(random_frames(4, config["image_size"]), torch.tensor([3, 1]))
    num_patches = (config["image_size"] // config["patch_size"]) ** 2
    assert features.patches.shape == (4, num_patches, config["hidden_size"])
    assert (encoder.dim, encoder.num_patches) == (config["hidden_size"], num_patches)
    assert bool(features.patches.isfinite().all())


def resized(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> tuple[int, ...]:
    """Shape that a recorded tensor has under another configuration."""
    recorded = RECORDED["vision_config"]
    if name.startswith("embeddings.patch_embedding"):
        return (config["hidden_size"], 3, config["patch_size"], config["patch_size"])
    if name.startswith("embeddings.position_embedding"):
        return (1 + (config["image_size"] // config["patch_size"]) ** 2, config["hidden_size"])
    changes = {recorded[key]: config[key] for key in ("hidden_size", "intermediate_size")}
    return tuple(changes.get(length, length) for length in shape)


def test_activation_comes_from_the_configuration(tmp_path: Path, folders: Folders) -> None:
    other = write_folder(tmp_path / "other", image_weights(), hidden_act="quick_gelu")
    states = hidden_states(folders.image, "image"), hidden_states(other, "image")
    torch.testing.assert_close(states[0][0], states[1][0])
    assert not torch.allclose(states[0][1], states[1][1], atol=1e-3)


def as_dual_encoder(folder: Path) -> None:
    weights = {f"vision_model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights |= {name: torch.zeros(2) for name in ("text_model.final_layer_norm.bias", "visual_projection.weight")}
    weights |= {"logit_scale": torch.zeros(()), "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"vision_config": RECORDED["vision_config"], "text_config": {}}))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("rewrite", [as_dual_encoder, as_pickle])
def test_every_published_form_is_read(rewrite: Callable[[Path], None], folders: Folders) -> None:
    frames, counts = random_frames(4), torch.tensor([3, 1])
    expected = build(folders)(frames, counts)
    rewrite(folders.video)
    rewrite(folders.image)
    assert_close(build(folders)(frames, counts), expected)


def test_weights_file_beside_its_configuration_is_read(folders: Folders, tmp_path: Path) -> None:
    frames, counts = random_frames(4), torch.tensor([3, 1])
    expected = build(folders)(frames, counts)
    files = Folders(tmp_path / "video_encoder.safetensors", tmp_path / "image_encoder.safetensors")
    shutil.copyfile(folders.video / "config.json", tmp_path / "config.json")
    for folder, file in zip(folders, files, strict=True):
        shutil.copyfile(folder / "model.safetensors", file)
    assert_close(build(files)(frames, counts), expected)


def replaced(weights: Weights, name: str, tensor: Tensor | None) -> Weights:
    return {key: each for key, each in weights.items() if key != name} | ({} if tensor is None else {name: tensor})


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("pre_layrnorm.bias", None, r"video transformer .* missing pre_layrnorm\.bias"),
        ("encoder.layers.0.temporal_mlp.fc1.bias", torch.zeros(2), r"unknown encoder\.layers\.0\.temporal_mlp\.fc1"),
        ("encoder.layers.7.layer_norm1.bias", torch.zeros(64), r"unknown encoder\.layers\.7"),
        (
            "encoder.layers.0.mlp.fc1.bias",
            torch.zeros(3),
            r"fc1\.bias has shape \[3\], expected \[128\] by config\.json",
        ),
        ("vision_model.logit_bias", torch.zeros(1), "is no checkpoint of LanguageBind: unknown"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, tensor: Tensor | None, message: str, folders: Folders) -> None:
    write_folder(folders.video, replaced(WEIGHTS, name, tensor))
    with pytest.raises(ValueError, match=message):
        build(folders)


def test_swapped_folders_are_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match=r"missing encoder\.layers\.0\.temporal_attn"):
        build(Folders(folders.image, folders.image))
    with pytest.raises(ValueError, match=r"image transformer .* unknown encoder\.layers\.0\.temporal_attn"):
        build(Folders(folders.video, folders.video))


def test_half_an_adapter_is_refused(tmp_path: Path, folders: Folders) -> None:
    weights = lora_weights(with_base_layer=True)
    lost = next(name for name in weights if "lora_B" in name)
    folder = write_folder(tmp_path / "lora", replaced(weights, lost, None), lora_alpha=16)
    with pytest.raises(ValueError, match="cannot be merged"):
        build(folders._replace(image=folder))


def test_adapters_without_a_scale_are_refused(tmp_path: Path, folders: Folders) -> None:
    folder = write_folder(tmp_path / "lora", lora_weights(with_base_layer=True))
    with pytest.raises(ValueError, match="no 'lora_alpha'"):
        build(folders._replace(image=folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": None}, "'hidden_act' must be a str, got None"),
        ({"hidden_act": "gloo"}, "'hidden_act' 'gloo' is unknown"),
        ({"num_attention_heads": 5}, "'hidden_size' 64 is no multiple of 'num_attention_heads' 5"),
        ({"patch_size": 0}, "'image_size' 56 is no multiple of 'patch_size' 0"),
        ({"layer_norm_eps": "1e-5"}, "'layer_norm_eps' must be a float, got '1e-5'"),
    ],
)
def test_unusable_configurations_are_refused(settings: dict[str, Any], message: str, folders: Folders) -> None:
    write_folder(folders.video, WEIGHTS, **settings)
    with pytest.raises(ValueError, match=message):
        build(Folders(folders.video, folders.video))


def test_missing_configuration_is_refused(folders: Folders) -> None:
    (folders.image / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="sizes and activation"):
        build(folders)


def test_transformers_of_different_sizes_are_refused(tmp_path: Path, folders: Folders) -> None:
    weights = replaced(image_weights(), "embeddings.position_embedding.weight", torch.zeros(10, 64))
    folder = write_folder(tmp_path / "other", weights, image_size=42)
    with pytest.raises(ValueError, match=r"'image_size' is 56 in .* but 42 in"):
        build(folders._replace(image=folder))


def test_random_weights_need_the_configuration_alone_and_give_the_same_shapes(folders: Folders) -> None:
    shapes = {name: tensor.shape for name, tensor in build(folders).state_dict().items()}
    for folder in folders:
        (folder / "model.safetensors").unlink()
    encoder = build(folders, weights="random", dtype="bfloat16")
    assert {name: tensor.shape for name, tensor in encoder.state_dict().items()} == shapes
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    features = encoder(random_frames(3), torch.tensor([3]))
    assert features.patches.isfinite().all()
    assert features.patches[0].std() > 0


def test_other_weights_than_pretrained_and_random_are_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match="expected 'pretrained' or 'random'"):
        build(folders, weights="untrained")
