"""The published 7B shape, built from configs/model/videollamb_7b.yaml on the meta device: no memory, no numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmarks.full_size.sizes import VICUNA, VIT_LARGE
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.encoders.languagebind_transformer import VisionTransformer
from components.encoders.languagebind_weights import build_vision_transformer, parse_vision_config
from components.language.causal import HuggingFaceCausalLM
from components.weights.conversion import PARTS, Import, import_checkpoint
from components.weights.encoder_settings import EncoderFacts, encoder_settings
from components.weights.original_names import PartName, unused_bridge_names
from tests.fixtures_data import make_tiny_tokenizer

CONFIG: Any = OmegaConf.load(Path(__file__).resolve().parents[1] / "configs/model/videollamb_7b.yaml")
BRIDGE_ARGUMENTS = {name: value for name, value in CONFIG.model.bridge.init_args.items() if name != "weights"}


def count(parts: nn.Module | dict[str, Tensor]) -> int:
    tensors = parts.parameters() if isinstance(parts, nn.Module) else parts.values()
    return sum(tensor.numel() for tensor in tensors)


def attention(width: int) -> int:
    return 4 * (width * width + width)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCausalLM:
    folder = make_tiny_tokenizer(tmp_path_factory.mktemp("vicuna"))
    (folder / "config.json").write_text(json.dumps(VICUNA), encoding="utf-8")
    arguments = CONFIG.model.language_model.init_args
    with torch.device("meta"):
        return HuggingFaceCausalLM(**{**arguments, "path": str(folder), "weights": "random"})


@pytest.fixture(scope="module")
def bridge(language_model: HuggingFaceCausalLM) -> VideoLLaMBBridge:
    with torch.device("meta"):
        return VideoLLaMBBridge(VIT_LARGE["hidden_size"], language_model.dim, **BRIDGE_ARGUMENTS)


@pytest.fixture(scope="module")
def published(bridge: VideoLLaMBBridge, language_model: HuggingFaceCausalLM) -> Import:
    """A checkpoint of the published size and names, without numbers, taken in by the importer."""
    config = parse_vision_config(VIT_LARGE, "the published configuration")
    stored: dict[str, Tensor] = dict(language_model.model.state_dict())
    with torch.device("meta"):
        for part, temporal in (("video_encoder", True), ("image_encoder", False)):
            tower = VisionTransformer(config, config.num_hidden_layers, temporal).state_dict()
            norm = {f"post_layernorm.{kind}": torch.empty(1024) for kind in ("weight", "bias")}
            stored |= {PARTS[part].prefix + name: tensor for name, tensor in (tower | norm).items()}
    weights = bridge.state_dict()
    projector = {theirs: weights[ours] for theirs, ours in PARTS["bridge"].names(1).items()}
    projector |= {name: projector[twin] for name, twin in unused_bridge_names(1).items()}
    stored |= {PARTS["bridge"].prefix + name: tensor for name, tensor in projector.items()}
    assert sum(tensor.numel() for tensor in projector.values()) == 29_461_504  # as the original counts
    return import_checkpoint(stored)


def test_bridge_has_the_published_size_without_what_is_never_used(bridge: VideoLLaMBBridge, published: Import) -> None:
    mlp = 1024 * 4096 + 4096 + 4096 * 1024 + 1024
    norms, memory, projection = 3 * 2 * 1024, 32 * 1024, 1024 * 4096 + 4096
    assert count(bridge) == 2 * attention(1024) + mlp + norms + memory + projection == 21_027_840
    assert len(published.parts["bridge"].dropped) == 21
    assert 29_461_504 - count(bridge) == 2 * (attention(1024) + 2 * 1024) + memory == 8_433_664
    bridge.load_state_dict(published.parts["bridge"].tensors)


@pytest.mark.parametrize(("part", "expected"), [("video_encoder", 404_187_136), ("image_encoder", 303_179_776)])
def test_encoders_are_built_up_to_the_chosen_layer(part: PartName, expected: int, published: Import) -> None:
    tensors, num_layers, *_ = published.parts[part]
    settings = encoder_settings(tensors, num_layers, EncoderFacts(), part)
    assert {name: settings[name] for name in VIT_LARGE} == VIT_LARGE
    config = parse_vision_config(settings, part)
    arguments = CONFIG.model.encoder.init_args
    temporal = part == "video_encoder"
    dtype = getattr(torch, arguments.dtype)
    transformer = build_vision_transformer(config, tensors, arguments.layer, temporal, dtype, part)
    space = attention(1024) + 1024 * 4096 + 4096 + 4096 * 1024 + 1024 + 2 * 2 * 1024
    time = attention(1024) + 2 * 1024 + 8 * 1024
    embeddings = 1024 + 3 * 14 * 14 * 1024 + 257 * 1024 + 2 * 1024  # class, patches, positions, norm
    num_layers = 23  # layer -2: the output of the last but one, the last is not built
    assert count(transformer) == num_layers * (space + temporal * time) + embeddings
    assert count(tensors) == 24 * (space + temporal * time) + embeddings + 2 * 1024
    assert count(tensors) == expected
    assert transformer.config.num_patches == 256


def test_language_model_has_the_published_size(language_model: HuggingFaceCausalLM, published: Import) -> None:
    assert count(language_model) == 6_738_415_616
    assert count(published.parts["language_model"].tensors) == 6_738_415_616
    assert all(parameter.requires_grad for parameter in language_model.parameters())
    assert language_model.model.is_gradient_checkpointing


def test_config_names_the_published_settings() -> None:
    model = CONFIG.model
    assert model.segmenter == {
        "class_path": "components.segmenters.scene_tilling.SceneTilling",
        "init_args": {"k": 3},
    }
    assert model.frame_selection.init_args == {"max_frames": 8}
    assert BRIDGE_ARGUMENTS == {
        "num_memory": 32,
        "num_layers": 1,
        "num_heads": 8,
        "mlp_width": 4096,
        "dropout": 0.1,
        "retrieval": True,
    }
    assert model.patch_pooling.init_args == {"grid": 12}
    assert CONFIG.data.pixels.size == VIT_LARGE["image_size"]
