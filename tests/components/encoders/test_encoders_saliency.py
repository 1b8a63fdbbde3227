"""Saliency of patches and the joint embedding of frames, compared with what transformers itself gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipModel,
)

from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.flops.counting import meta_copy
from tests.components.encoders.test_encoders_hugging_face import (
    PREFIX_TOKENS,
    normalised,
    random_frames,
    save_checkpoint,
    write_processor,
)

THREE = torch.tensor([3])


def eager_attention(folder: Path, frames: Tensor, layer: int) -> Tensor:
    """Attention of one layer, ``[F, heads, tokens, tokens]``, from the model's eager kernel."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        output = getattr(model, "vision_model", model)(pixel_values=normalised(frames), output_attentions=True)
    attention: Tensor = output.attentions[layer]
    return attention


@pytest.mark.parametrize("saliency_layer", [1, -1, -2])
@pytest.mark.parametrize("name", ["clip", "clip vision part", "dinov2", "dinov2 with registers"])
def test_saliency_is_the_attention_of_the_class_token(name: str, saliency_layer: int, tmp_path: Path) -> None:
    save_checkpoint(name, tmp_path, std=0.8)  # sharp attention
    frames, prefix = random_frames(3), PREFIX_TOKENS[name]
    index = saliency_layer - 1 if saliency_layer > 0 else saliency_layer
    expected = eager_attention(tmp_path, frames, index)[:, :, 0, prefix:].mean(dim=1)
    encoder = HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=saliency_layer, max_frames_per_call=2)
    saliency = encoder(frames, THREE).saliency
    assert saliency is not None
    assert saliency.dtype == torch.float32
    assert expected.std() > 3e-3  # far more than the tolerance
    torch.testing.assert_close(saliency, expected, atol=1e-5, rtol=0)


def test_saliency_without_class_token_is_the_mean_over_all_tokens(tmp_path: Path) -> None:
    save_checkpoint("siglip", tmp_path)
    expected = eager_attention(tmp_path, random_frames(3), 1).mean(dim=(1, 2))
    saliency = HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=2)(random_frames(3), THREE).saliency
    torch.testing.assert_close(saliency, expected, atol=1e-5, rtol=0)


def test_saliency_of_rotary_positions_is_that_after_the_rotation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = DINOv3ViTModel(DINOv3ViTConfig(**sizes, image_size=28, patch_size=7, num_register_tokens=3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    write_processor(tmp_path)
    expected = eager_attention(tmp_path, random_frames(3), -1)[:, :, 0, 4:].mean(dim=1)
    saliency = HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=-1)(random_frames(3), THREE).saliency
    torch.testing.assert_close(saliency, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"saliency_layer": 3}, {"joint": True}, {"saliency_layer": 1, "joint": True}])
def test_more_outputs_change_no_feature(options: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint("clip", tmp_path)
    plain = HuggingFaceVisionEncoder(str(tmp_path), layer=2)(random_frames(3), THREE)
    more = HuggingFaceVisionEncoder(str(tmp_path), layer=2, **options)(random_frames(3), THREE)
    assert plain.saliency is None
    assert plain.joint is None
    torch.testing.assert_close(more.patches, plain.patches, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(more.cls, plain.cls, atol=1e-6, rtol=1e-6)


def test_only_the_layers_that_are_needed_are_built(tmp_path: Path) -> None:
    save_checkpoint("clip", tmp_path)
    for options, last in (({"saliency_layer": 2}, 1), ({"joint": True}, 2)):
        names = [name for name, _ in HuggingFaceVisionEncoder(str(tmp_path), layer=1, **options).named_parameters()]
        assert any(f"layers.{last}." in name for name in names)
        assert not any(f"layers.{last + 1}." in name for name in names)


@pytest.mark.parametrize(("name", "model_class"), [("clip", CLIPModel), ("siglip", SiglipModel)])
def test_joint_embedding_is_the_models_image_embedding(name: str, model_class: Any, tmp_path: Path) -> None:
    model = save_checkpoint(name, tmp_path)
    assert isinstance(model, model_class)
    frames = random_frames(3)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=normalised(frames)).pooler_output
    encoder = HuggingFaceVisionEncoder(str(tmp_path), layer=-2, joint=True, max_frames_per_call=2)
    joint = encoder(frames, THREE).joint
    assert joint is not None
    assert joint.shape == (3, encoder.joint_dim)
    torch.testing.assert_close(joint, expected, atol=1e-5, rtol=1e-5)


def test_width_of_the_joint_embedding_is_that_of_the_dual_model(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = sizes | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = sizes | {"image_size": 28, "patch_size": 7}  # its own projection_dim is a default
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)).save_pretrained(tmp_path)
    write_processor(tmp_path)
    encoder = HuggingFaceVisionEncoder(str(tmp_path), layer=1, joint=True)
    joint = encoder(random_frames(3), THREE).joint
    assert joint is not None
    assert joint.shape[1] == encoder.joint_dim == 20


def test_no_frames_give_empty_outputs_of_every_kind(tmp_path: Path) -> None:
    save_checkpoint("clip", tmp_path)
    encoder = HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=1, joint=True)
    features = encoder(random_frames(0), torch.zeros(0, dtype=torch.int64))
    assert features.saliency is not None
    assert features.saliency.shape == (0, 16)
    assert features.joint is not None
    assert features.joint.shape == (0, encoder.joint_dim)


def test_half_precision_saliency_is_close_to_that_of_float32(tmp_path: Path) -> None:
    save_checkpoint("clip", tmp_path)
    exact, half = (
        HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=2, dtype=dtype)(random_frames(3), THREE).saliency
        for dtype in ("float32", "bfloat16")
    )
    assert exact is not None
    assert half is not None
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(exact, half, dim=1).min() > 0.99


def test_a_copy_on_the_meta_device_gives_saliency_too(tmp_path: Path) -> None:
    save_checkpoint("clip", tmp_path)
    encoder = meta_copy(HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=2))
    saliency = encoder(encoder.dummy_frames("meta"), torch.tensor([1])).saliency
    assert saliency is not None
    assert saliency.shape == (1, 16)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip", {"saliency_layer": 4}, r"saliency_layer must be in 1\.\.3 or -3\.\.-1, got 4"),
        ("dinov2", {"joint": True}, "'dinov2' has no embedding that it shares with text.*CLIP or SigLIP"),
        ("clip vision part", {"joint": True}, r"visual_projection\.weight is missing"),
        ("clip", {"saliency_layer": 0, "layer": 9}, r"2 things are wrong: .*layer must be.*saliency_layer must be"),
    ],
)
def test_outputs_that_a_model_does_not_have_are_refused(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_checkpoint(name, tmp_path)
    with pytest.raises(ValueError, match=message):
        HuggingFaceVisionEncoder(str(tmp_path), **options)


def test_attention_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DeiTModel(
        DeiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7)
    ).save_pretrained(tmp_path)
    write_processor(tmp_path)
    # As in a model whose attention asks no configuration for its kernel.
    monkeypatch.setattr("components.encoders.vision_outputs.read_attention_in", lambda _layer, **_options: None)
    with pytest.raises(ValueError, match="in a way that saliency_layer cannot read"):
        HuggingFaceVisionEncoder(str(tmp_path), saliency_layer=1)
