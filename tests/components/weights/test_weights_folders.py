"""Imported folders can be loaded by the parts, and exported again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.checkpoints.weight_files import WeightFiles
from components.encoders.languagebind_transformer import FrameWindows
from components.encoders.languagebind_weights import load_vision_transformer
from components.language.causal import HuggingFaceCausalLM
from components.weights.conversion import PARTS
from components.weights.encoder_settings import EncoderFacts, encoder_settings
from components.weights.lora import merge_adapters
from components.weights.videollamb import main
from tests.components.encoders.languagebind_folders import (
    RECORDED,
    TENSORS,
    WEIGHTS,
    image_weights,
    lora_weights,
    recorded_state,
)
from tests.fixtures_videollamb import ENCODER_FACTS, VISION, language_config, make_llama_tokenizer, write_original

UNUSED = re.compile(r"memory_tokens|projector\.layers\.\d+\.crossattention|retrieval\.layers\.\d+\.selfattention")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_original(folder)
    return folder


@pytest.fixture(scope="module")
def ours(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    main(["import", str(original), str(folder), *ENCODER_FACTS])
    return folder


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_round_trip_gives_back_the_model(original: Path, ours: Path, tmp_path: Path) -> None:
    main(["export", str(ours), str(tmp_path / "back")])
    prefix = PARTS["image_encoder"].prefix
    stored = WeightFiles(original)
    expected = {name: stored[name] for name in stored if not name.startswith(prefix)}
    adapted = {name: stored[name] for name in stored if name.startswith(prefix) and "position_ids" not in name}
    expected |= merge_adapters(adapted, alpha=16)
    returned = WeightFiles(tmp_path / "back")
    assert returned.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(returned[name], torch.zeros_like(tensor) if UNUSED.search(name) else tensor), name


def test_language_model_folder_needs_nothing_more(original: Path, ours: Path) -> None:
    folder = ours / "language_model"
    vocabulary = read_json(folder / "config.json")["vocab_size"]
    reference = LlamaForCausalLM(language_config(vocabulary))
    stored = WeightFiles(original)
    reference.load_state_dict({name: stored[name].float() for name in reference.state_dict()})
    ids = torch.arange(6)[None]
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(loaded(ids).logits, reference(ids).logits)
    assert HuggingFaceCausalLM(str(folder)).chat.decode([5, 2, 6]) is not None
    assert (folder / "tokenizer.json").is_file()


def test_language_model_of_transformers_own_llava_needs_nothing_more(original: Path, tmp_path: Path) -> None:
    """Its configuration contains those of the language model and of the image encoder."""
    language = language_config(make_llama_tokenizer(tmp_path / "llava").get_piece_size())
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=language))
    llava.save_pretrained(tmp_path / "llava")
    strangers = ["--allow-unknown", "vision_tower.*", "multi_modal_projector.*"]
    arguments = ["import", str(tmp_path / "llava"), str(tmp_path / "ours"), "--part", "language_model", *strangers]
    main(arguments)
    folder = tmp_path / "ours" / "language_model"
    model = HuggingFaceCausalLM(str(folder))
    ids = torch.arange(6)[None]
    assert torch.equal(model.model(ids).logits, llava(ids).logits)
    settings = read_json(folder / "config.json")
    assert not {"text_config", "vision_config", "image_token_index"} & settings.keys()
    assert settings["dtype"] == "float32"
    (tmp_path / "llava" / "model.safetensors").unlink()
    llava.model.language_model.layers.pop(1)
    llava.save_pretrained(tmp_path / "cut", max_shard_size="1GB")
    (tmp_path / "cut" / "model.safetensors").rename(tmp_path / "llava" / "model.safetensors")
    with pytest.raises(ValueError, match=r"language_model: missing layers \[1\] of the 2 that are stated"):
        main(arguments)


def test_bridge_file_is_loaded_by_the_bridge(ours: Path) -> None:
    bridge = VideoLLaMBBridge(VISION.hidden_size, 32, weights=str(ours / "bridge.safetensors"))
    assert torch.equal(bridge.initial_memory, load_file(ours / "bridge.safetensors")["initial_memory"].float())
    assert bridge.initial_memory.abs().max() > 0  # not as it is initialised


@pytest.mark.parametrize("part", ["video_encoder", "image_encoder"])
def test_sizes_of_the_encoders_are_written_down(part: str, ours: Path) -> None:
    settings = read_json(ours / part / "config.json")
    timed = {"add_time_attn": True, "num_frames": 8} if part == "video_encoder" else {"add_time_attn": False}
    assert settings == VISION._asdict() | timed


@pytest.mark.parametrize(("case", "part"), [("video_t16", "video_encoder"), ("image_lora", "image_encoder")])
def test_imported_encoders_give_the_recorded_states(case: str, part: Any, tmp_path: Path) -> None:
    tensors = WEIGHTS if part == "video_encoder" else lora_weights(with_base_layer=True)
    save_file({PARTS[part].prefix + name: each for name, each in tensors.items()}, tmp_path / "original.safetensors")
    main(["import", str(tmp_path / "original.safetensors"), str(tmp_path / "ours"), *ENCODER_FACTS])
    settings = read_json(tmp_path / "ours" / part / "config.json")
    assert {name: RECORDED["vision_config"][name] for name in VISION._fields} == {
        n: settings[n] for n in VISION._fields
    }
    temporal = part == "video_encoder"
    folder = str(tmp_path / "ours" / part)
    transformer = load_vision_transformer(folder, layer=-1, temporal=temporal, dtype=torch.float32)
    pixels = TENSORS[f"{case}.pixel_int8"].float() / 32
    pixels = pixels.transpose(1, 2).flatten(0, 1) if temporal else pixels
    windows = FrameWindows.of_lengths([8, 8], torch.device("cpu")) if temporal else None
    with torch.no_grad():
        state = transformer(pixels, windows)
    torch.testing.assert_close(state[:, ::3], recorded_state(case, 3), atol=1.5e-5, rtol=0)


def test_heads_that_no_tensor_shows_must_be_named(original: Path, tmp_path: Path) -> None:
    depths = ENCODER_FACTS[ENCODER_FACTS.index("--num-layers") :]
    with pytest.raises(ValueError, match=r"unknown number of attention heads for width 64.*--encoder-heads"):
        main(["import", str(original), str(tmp_path / "ours"), *depths])
    with pytest.raises(ValueError, match=r"5 attention heads for width 64"):
        main(["import", str(original), str(tmp_path / "ours"), *depths, "--encoder-heads", "5"])
    assert not (tmp_path / "ours").exists()


def test_heads_of_the_published_width_are_known() -> None:
    wide = {"embeddings.patch_embedding.weight": (1024, 3, 14, 14), "embeddings.position_embedding.weight": (257, 1024)}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in wide.items()}
    tensors["encoder.layers.0.mlp.fc1.weight"] = torch.empty(4096, 1024, device="meta")
    settings = encoder_settings(tensors, 24, EncoderFacts(), "image_encoder")
    assert (settings["num_attention_heads"], settings["image_size"], settings["patch_size"]) == (16, 224, 14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings.position_embedding.weight": torch.zeros(4, 64)}, "3 patch positions form no square grid"),
        ({"embeddings.patch_embedding.weight": None}, r"patch_embedding\.weight is missing"),
    ],
)
def test_sizes_that_cannot_be_read_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {name: each for name, each in (image_weights() | change).items() if each is not None}
    with pytest.raises(ValueError, match=f"image_encoder: .*{message}"):
        encoder_settings(tensors, 3, EncoderFacts(4), "image_encoder")


def test_weights_keep_their_dtype_unless_asked_and_merged_ones_are_float32(
    original: Path, ours: Path, tmp_path: Path
) -> None:
    main(["import", str(original), str(tmp_path), *ENCODER_FACTS, "--dtype", "bfloat16"])
    kept, cast = (WeightFiles(folder / "image_encoder") for folder in (ours, tmp_path))
    merged = "encoder.layers.0.self_attn.q_proj.weight"
    assert (kept[merged].dtype, kept["pre_layrnorm.bias"].dtype) == (torch.float32, torch.float16)
    assert {cast[name].dtype for name in cast} == {torch.bfloat16}
    assert torch.equal(cast[merged], kept[merged].bfloat16())
    assert read_json(tmp_path / "language_model" / "config.json")["dtype"] == "bfloat16"


def test_parts_that_were_not_asked_for_are_counted(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import", str(original), str(tmp_path), "--part", "language_model"])
    printed = capsys.readouterr().out
    assert "left out, not requested: bridge (50 tensors)" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["language_model"]


def test_weights_without_their_folder_say_what_is_lacking(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = WeightFiles(original)
    llama = {
        name: stored[name] for name in stored if name.startswith(("model.layers", "model.embed", "model.norm", "lm_"))
    }
    save_file(llama, tmp_path / "llama.safetensors")
    depth = ["--num-layers", "language_model=2"]
    main(["import", str(tmp_path / "llama.safetensors"), str(tmp_path / "ours"), *depth])
    assert "has no config.json; put LLaMA's, and the tokenizer's files" in capsys.readouterr().out
    assert (tmp_path / "ours" / "language_model" / "chat_template.jinja").is_file()


def test_broken_tokenizer_is_refused(original: Path, tmp_path: Path) -> None:
    for path in original.iterdir():
        (tmp_path / path.name).write_bytes(b"none" if path.name == "tokenizer.model" else path.read_bytes())
    with pytest.raises(ValueError, match=r".*tokenizer\.model is no SentencePiece model"):
        main(["import", str(tmp_path), str(tmp_path / "ours"), "--part", "language_model"])
