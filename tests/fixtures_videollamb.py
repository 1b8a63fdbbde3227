"""A VideoLLaMB checkpoint of tiny parts, in its authors' form. Plain functions; no fixture, no state."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.encoders.languagebind_transformer import VisionConfig, VisionTransformer
from components.weights.conversion import PARTS
from components.weights.original_names import PartName, bridge_names, unused_bridge_names

VISION = VisionConfig(
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=224,  # what configs/model/videollamb_7b.yaml reads, in 4 x 4 patches
    patch_size=56,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
)
_DEPTHS = [f"{part}={VISION.num_hidden_layers}" for part in ("video_encoder", "image_encoder")]
ENCODER_FACTS = ["--encoder-heads", str(VISION.num_attention_heads), "--num-layers", *_DEPTHS]
LLM_WIDTH = 32
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)

_CORPUS = [SYSTEM, "USER: \nwhich colour ? ASSISTANT: red", "what is shown in this video", "say hello", "how many ?"]


def make_llama_tokenizer(folder: Path, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    """Write a ``tokenizer.model`` of LLaMA's kind, as old checkpoints have it: without ``tokenizer.json``.

    Args:
        folder: Where to.
        **settings: Of ``tokenizer_config.json``, such as ``legacy``.

    Returns:
        The library that LLaMA was trained with, reading that file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    named = {"tokenizer_class": "LlamaTokenizer", "model_max_length": 2048, **special, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def original_tensors(vocabulary: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Every part of the original under its names, in float16; the image encoder with LoRA adapters."""
    torch.manual_seed(seed)
    bridge = VideoLLaMBBridge(VISION.hidden_size, LLM_WIDTH).state_dict()
    stored = {theirs: bridge[ours] for theirs, ours in bridge_names(1).items()}
    stored["projector.read_memory_emb"] = torch.randn(32, VISION.hidden_size)
    stored |= {name: torch.randn_like(stored[twin]) for name, twin in unused_bridge_names(1).items()}
    tensors = _prefixed("bridge", stored)
    for part in ("video_encoder", "image_encoder"):
        tensors |= _prefixed(part, _encoder_tensors(temporal=part == "video_encoder"))
    tensors["model.image_tower.image_tower.embeddings.position_ids"] = torch.arange(17)[None]
    language_model: dict[str, Tensor] = LlamaForCausalLM(language_config(vocabulary)).state_dict()
    tensors |= language_model
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def language_config(vocabulary: int) -> LlamaConfig:
    """A LLaMA of two layers."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=LLM_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )


def write_original(folder: Path) -> dict[str, Tensor]:
    """Write the whole checkpoint: two shards, configuration, tokenizer; gives its tensors."""
    vocabulary = make_llama_tokenizer(folder, legacy=False).get_piece_size()
    tensors = original_tensors(vocabulary)
    more = {"model_type": "llava_llama", "mm_hidden_size": 64, "mm_projector_type": "rmt_r_transformer1x"}
    _write_checkpoint(folder, tensors, language_config(vocabulary).to_dict() | more)
    return tensors


def write_start(folder: Path) -> None:
    """Write what the authors began with: LLaVA-1.5 with its image encoder, and LanguageBind's two dual encoders."""
    vocabulary = make_llama_tokenizer(folder / "llava-v1.5-7b", legacy=False).get_piece_size()
    tensors: dict[str, Tensor] = LlamaForCausalLM(language_config(vocabulary)).state_dict()
    tensors |= {f"model.mm_projector.{number}.weight": torch.randn(4, 4) for number in (0, 2)}
    tensors["model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"] = torch.randn(4)
    more = {"model_type": "llava", "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu"}
    _write_checkpoint(folder / "llava-v1.5-7b", tensors, language_config(vocabulary).to_dict() | more)
    for name, temporal in (("LanguageBind_Video_merge", True), ("LanguageBind_Image", False)):
        (folder / name).mkdir()
        dual = {f"vision_model.{each}": tensor for each, tensor in _encoder_tensors(temporal).items()}
        dual |= {"logit_scale": torch.ones(()), "text_model.final_layer_norm.weight": torch.ones(4)}
        torch.save(dual, folder / name / "pytorch_model.bin")
        vision = VISION._asdict() | {"add_time_attn": temporal, "num_frames": 8, "lora_r": 2, "lora_alpha": 16}
        (folder / name / "config.json").write_text(json.dumps({"vision_config": vision}), encoding="utf-8")


def _write_checkpoint(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, path)
        weight_map |= dict.fromkeys(part, path.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _encoder_tensors(temporal: bool) -> dict[str, Tensor]:
    transformer = VisionTransformer(VISION, VISION.num_hidden_layers, temporal)
    tensors = {name: torch.randn_like(tensor) * 0.1 for name, tensor in transformer.state_dict().items()}
    width = VISION.hidden_size
    tensors |= {"post_layernorm.weight": torch.ones(width), "post_layernorm.bias": torch.zeros(width)}
    if temporal:
        return tensors
    wrapped = {name.replace("encoder.", "encoder.base_model.model."): tensor for name, tensor in tensors.items()}
    for name in [name for name in wrapped if name.endswith("q_proj.weight")]:
        path = name.removesuffix(".weight")
        for kind in ("weight", "bias"):
            wrapped[f"{path}.base_layer.{kind}"] = wrapped.pop(f"{path}.{kind}")
        wrapped[f"{path}.lora_A.default.weight"] = torch.randn(2, width) * 0.1
        wrapped[f"{path}.lora_B.default.weight"] = torch.randn(width, 2) * 0.1
    return wrapped


def _prefixed(part: PartName, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {PARTS[part].prefix + name: tensor for name, tensor in tensors.items()}


def write_sharded(tensors: dict[str, Tensor], folder: Path, kind: str) -> None:
    """Two shards and their index."""
    folder.mkdir()
    names = sorted(tensors)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"{stem}-0000{number}-of-00002.{kind}"
        own = {name: tensors[name].contiguous() for name in part}
        if kind == "safetensors":
            save_file(own, path)
        else:
            torch.save(own, path)
        weight_map |= dict.fromkeys(part, path.name)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
