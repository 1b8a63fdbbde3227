import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    SiglipConfig,
    SiglipModel,
)

from components.encoders.hugging_face import HuggingFaceVisionEncoder

VISION = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
ONE = torch.tensor([1])

MODELS: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=VISION | {"intermediate_size": 32}, text_config=TEXT)),
    "clip vision part": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION, intermediate_size=32)),
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=VISION | {"intermediate_size": 32}, text_config=TEXT)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2)),
    "dinov2 with registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**VISION, mlp_ratio=2)),
}
PREFIX_TOKENS = {"clip": 1, "clip vision part": 1, "siglip": 0, "dinov2": 1, "dinov2 with registers": 5}


def write_processor(folder: Path, **changes: Any) -> None:
    settings: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 32}, "crop_size": 28}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))


def save_checkpoint(name: str, folder: Path, std: float = 0.2) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # DINOv2 starts its layer scales and registers at constants
        torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    write_processor(folder)
    return model


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    save_checkpoint("clip", tmp_path)
    return tmp_path


def random_frames(count: int, size: int = 28) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def normalised(frames: Tensor) -> Tensor:
    return (frames.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize("layer", [1, -1, -2])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_checkpoints_hidden_states(name: str, layer: int, tmp_path: Path) -> None:
    model = save_checkpoint(name, tmp_path)
    frames = random_frames(3)
    with torch.no_grad():
        vision = getattr(model, "vision_model", model)
        hidden = vision(pixel_values=normalised(frames), output_hidden_states=True).hidden_states[layer]
    prefix = PREFIX_TOKENS[name]
    encoder = HuggingFaceVisionEncoder(str(tmp_path), layer=layer)
    features = encoder(frames, torch.tensor([3]))
    torch.testing.assert_close(features.patches, hidden[:, prefix:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.cls, hidden[:, 0] if prefix else hidden.mean(dim=1), atol=1e-5, rtol=1e-5)
    assert (encoder.dim, encoder.num_patches) == (16, 16)


def test_layers_after_the_chosen_one_are_not_built(clip_folder: Path) -> None:
    encoder = HuggingFaceVisionEncoder(str(clip_folder), layer=1)
    names = [name for name, _ in encoder.named_parameters()]
    assert any("layers.0." in name for name in names)
    assert not any("layers.1." in name or "text" in name for name in names)


def test_encoder_is_frozen_and_stays_in_eval_mode(clip_folder: Path) -> None:
    encoder = HuggingFaceVisionEncoder(str(clip_folder))
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(random_frames(1), ONE).patches.requires_grad


def test_chunks_do_not_change_the_features(clip_folder: Path) -> None:
    frames = random_frames(7)
    whole = HuggingFaceVisionEncoder(str(clip_folder))(frames, torch.tensor([7]))
    chunked = HuggingFaceVisionEncoder(str(clip_folder), max_frames_per_call=3)(frames, torch.tensor([7]))
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2"])
def test_larger_frames_are_read_with_interpolated_positions(name: str, tmp_path: Path) -> None:
    save_checkpoint(name, tmp_path)
    encoder = HuggingFaceVisionEncoder(str(tmp_path), image_size=42)
    features = encoder(random_frames(2, size=42), torch.tensor([2]))
    assert features.patches.shape == (2, 36, 16)
    assert encoder.num_patches == 36


def test_no_frames_give_no_features(clip_folder: Path) -> None:
    encoder = HuggingFaceVisionEncoder(str(clip_folder), dtype="bfloat16")
    features = encoder(random_frames(0), torch.zeros(0, dtype=torch.int64))
    assert features.cls.shape == (0, 16)
    assert features.patches.shape == (0, encoder.num_patches, 16)
    assert features.cls.dtype == features.patches.dtype == torch.bfloat16


def test_dummy_frame_can_be_encoded(clip_folder: Path) -> None:
    encoder = HuggingFaceVisionEncoder(str(clip_folder))
    assert encoder(encoder.dummy_frames(torch.device("cpu")), ONE).patches.shape == (1, 16, 16)


def test_half_precision_features_follow_float32(clip_folder: Path) -> None:
    exact = HuggingFaceVisionEncoder(str(clip_folder))(random_frames(2), torch.tensor([2]))
    half = HuggingFaceVisionEncoder(str(clip_folder), dtype="bfloat16")(random_frames(2), torch.tensor([2]))
    assert half.patches.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.patches.float(), exact.patches, dim=-1).min() > 0.99


def test_pixel_settings_of_the_checkpoint_are_used(clip_folder: Path) -> None:
    plain = HuggingFaceVisionEncoder(str(clip_folder))(random_frames(1), ONE)
    write_processor(clip_folder, do_normalize=False)
    unnormalised = HuggingFaceVisionEncoder(str(clip_folder))(random_frames(1), ONE)
    assert not torch.allclose(plain.patches, unnormalised.patches, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"height": 28, "width": 28}, "crop_size": None}, 28),
        ({"size": 42, "do_center_crop": False}, 42),
        ({"crop_size": {"height": 14, "width": 14}}, 14),
    ],
)
def test_image_size_is_read_in_every_published_form(clip_folder: Path, changes: dict[str, Any], expected: int) -> None:
    write_processor(clip_folder, **changes)
    assert HuggingFaceVisionEncoder(str(clip_folder)).image_size == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": None}, "'image_mean' of preprocessor_config.json must be three numbers, got None"),
        ({"image_std": [0.5]}, "'image_std'"),
        ({"crop_size": {"height": 28, "width": 14}}, "names no square image"),
    ],
)
def test_unusable_pixel_settings_are_refused(clip_folder: Path, changes: dict[str, Any], message: str) -> None:
    write_processor(clip_folder, **changes)
    with pytest.raises(ValueError, match=message):
        HuggingFaceVisionEncoder(str(clip_folder))


def test_missing_pixel_settings_are_refused(clip_folder: Path) -> None:
    (clip_folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json could be read"):
        HuggingFaceVisionEncoder(str(clip_folder))


def test_checkpoint_without_an_attention_weight_is_refused(clip_folder: Path) -> None:
    weights = load_file(clip_folder / "model.safetensors")
    lost = next(name for name in weights if "vision" in name and "layers.0" in name and "q_proj.weight" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, clip_folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"q_proj\.weight is missing"):
        HuggingFaceVisionEncoder(str(clip_folder))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    write_processor(tmp_path)
    with pytest.raises(ValueError, match="no model configuration could be read"):
        HuggingFaceVisionEncoder(str(tmp_path))


def test_language_model_is_refused(tmp_path: Path) -> None:
    LlamaConfig(**TEXT).save_pretrained(tmp_path)
    write_processor(tmp_path)
    with pytest.raises(ValueError, match="'llama' is no vision transformer"):
        HuggingFaceVisionEncoder(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, r"layer must be in 1..3 or -3..-1, got 4"),
        ({"layer": 0}, "got 0"),
        ({"layer": -4}, "got -4"),
        ({"image_size": 3}, "does not take frames 3 pixels wide"),
        ({"max_frames_per_call": 0}, "at least 1, got 0"),
        ({"attn": "flash_attention_3"}, "cannot be used"),
    ],
)
def test_impossible_options_are_refused(clip_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceVisionEncoder(str(clip_folder), **options)


@pytest.mark.parametrize("frames", [random_frames(1, size=42), random_frames(1).float(), random_frames(1)[0]])
def test_frames_of_another_form_are_refused(clip_folder: Path, frames: Tensor) -> None:
    with pytest.raises(ValueError, match=r"reads uint8 frames \[F, 3, 28, 28\]"):
        HuggingFaceVisionEncoder(str(clip_folder))(frames, ONE)
