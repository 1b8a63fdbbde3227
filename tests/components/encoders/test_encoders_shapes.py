"""Encoders with unusual shapes: patches that do not fill the frame, sizes as lists, no position embeddings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Blip2VisionConfig,
    DeiTConfig,
    DeiTModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    MetaClip2VisionConfig,
    PixtralVisionConfig,
    PixtralVisionModel,
    Siglip2Config,
    Siglip2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMVisionConfig,
    SmolVLMVisionTransformer,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
    YolosConfig,
    YolosModel,
)

from components.encoders.cached import CachedFeatures
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.encoders.image_settings import read_image_settings

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
SMALL: dict[str, Any] = SIZES | {"image_size": 32, "patch_size": 8}
ONE = torch.tensor([1])


def save(folder: Path, model: Any, size: Any) -> str:
    model.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


def siglip(image_size: int) -> Any:
    return SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=image_size, patch_size=14))


def dinov3() -> Any:
    return DINOv3ViTModel(DINOv3ViTConfig(**SIZES, image_size=32, patch_size=16, num_register_tokens=3))


def vit_of_lists() -> Any:
    return ViTModel(ViTConfig(**SIZES, image_size=[28, 28], patch_size=[7, 7]), add_pooling_layer=False)


@pytest.mark.parametrize(
    ("make", "size", "patches", "prefix"),
    [
        (lambda: siglip(384), 384, 729, 0),  # SigLIP-so400m: 6 pixels are left over
        (lambda: siglip(378), 378, 729, 0),
        (dinov3, 32, 4, 4),
        (vit_of_lists, 28, 16, 1),
        (lambda: DeiTModel(DeiTConfig(**SMALL), add_pooling_layer=False), 32, 16, 2),
        (lambda: SmolVLMVisionTransformer(SmolVLMVisionConfig(**SMALL)), 32, 16, 0),
    ],
    ids=["siglip 384/14", "siglip 378/14", "dinov3", "vit with sizes as lists", "distillation token", "reads values"],
)
def test_patches_are_those_of_the_model_itself(
    tmp_path: Path, make: Callable[[], Any], size: int, patches: int, prefix: int
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    encoder = HuggingFaceVisionEncoder(save(tmp_path, model, {"height": size, "width": size}), layer=-1)
    frames = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        hidden = model(pixel_values=(frames / 255 - 0.5) / 0.5, output_hidden_states=True).hidden_states[-1]
    features = encoder(frames, ONE)
    assert encoder.num_patches == patches
    torch.testing.assert_close(features.patches, hidden[:, prefix:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.cls, hidden[:, 0] if prefix else hidden.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [30, 42])
def test_models_with_rotary_positions_take_other_sizes(tmp_path: Path, size: int) -> None:
    encoder = HuggingFaceVisionEncoder(save(tmp_path, dinov3(), 32), image_size=size)
    num_patches = (size // 16) ** 2
    assert encoder(torch.zeros(1, 3, size, size, dtype=torch.uint8), ONE).patches.shape == (1, num_patches, 16)
    assert encoder.num_patches == num_patches


def test_dummy_frame_costs_no_random_number(tmp_path: Path) -> None:
    path = save(tmp_path, siglip(28), 28)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    HuggingFaceVisionEncoder(path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("size", [28, [28, 28], {"height": 28, "width": 28}, {"shortest_edge": 28}])
def test_frame_size_is_told_without_building(tmp_path: Path, size: Any) -> None:
    path = save(tmp_path, siglip(28), size)
    assert HuggingFaceVisionEncoder.frame_side(path, layer=-2) == read_image_settings(path).size == 28
    assert HuggingFaceVisionEncoder.frame_side(path, image_size=42) == 42


def test_everything_wrong_with_an_encoder_is_said_at_once(tmp_path: Path) -> None:
    path = save(tmp_path, dinov3(), 32)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"2 things are wrong: \(1\).*layer must be in 1\.\.2.*\(2\).*preproc"):
        HuggingFaceVisionEncoder(path, layer=6)


def test_a_model_that_reads_patches_of_any_number_is_named(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Siglip2Config(vision_config=SIZES | {"patch_size": 7, "num_patches": 16}, text_config=text)
    Siglip2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"siglip2_vision_model.*NaFlex.*fixed resolution"):
        HuggingFaceVisionEncoder(str(tmp_path))


@pytest.mark.parametrize("config", [Blip2VisionConfig(), MetaClip2VisionConfig()])
def test_a_vision_part_that_cannot_be_loaded_alone_is_named_in_one_line(tmp_path: Path, config: Any) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot load the vision part") as caught:
        HuggingFaceVisionEncoder(str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "\n" not in message
    assert len(message) < 400


def test_cached_features_under_an_encoder_of_pixels_are_named(tmp_path: Path) -> None:
    encoder = HuggingFaceVisionEncoder(save(tmp_path, siglip(28), 28))
    with pytest.raises(ValueError, match=r"cached features.*CachedFeatures with dim 16 and num_patches 9"):
        encoder(torch.zeros(11, 10, 16), torch.tensor([11]))
    with pytest.raises(ValueError, match=r"set data\.pixels\.size to 28"):
        encoder(torch.zeros(1, 3, 30, 30, dtype=torch.uint8), ONE)
    with pytest.raises(ValueError, match="read shards that the feature cache command wrote"):
        CachedFeatures(16, 9)(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), ONE)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: ViTMAEModel(ViTMAEConfig(**SMALL)), r"\[2, 5, 16\]"),  # hides three quarters of the patches
        (lambda: PixtralVisionModel(PixtralVisionConfig(**SMALL)), r"\[1, 32, 16\]"),  # joins all frames
        (lambda: YolosModel(YolosConfig(**SMALL | {"image_size": [32, 32]}, num_detection_tokens=3)), r"\[2, 20, 16\]"),
    ],
    ids=["vit_mae", "pixtral", "yolos"],
)
def test_models_that_give_other_tokens_than_one_a_patch_are_refused(
    tmp_path: Path, make: Callable[[], Any], shape: str
) -> None:
    path = save(tmp_path, make(), {"height": 32, "width": 32})
    with pytest.raises(ValueError, match=rf"its layers give {shape} for 2 frames, expected \[2, \d class.* 16 patches"):
        HuggingFaceVisionEncoder(path)


def test_weights_of_other_shapes_than_the_config_says_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, siglip(28), {"height": 28, "width": 28})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 24}))
    with pytest.raises(ValueError, match=r"fc1.*has another shape"):
        HuggingFaceVisionEncoder(path)
