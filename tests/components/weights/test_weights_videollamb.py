import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.checkpoints.weight_files import WeightFiles
from components.weights.conversion import PARTS, Allowances, export_part, import_checkpoint
from components.weights.lora import merge_adapters
from components.weights.original_names import PartName
from components.weights.videollamb import main
from tests.fixtures_videollamb import write_sharded

GOLDENS = Path(__file__).parents[2] / "goldens"
ORIGINAL_BRIDGE = load_file(GOLDENS / "bridge_weights.safetensors")  # names below `mm_projector`, all 50 of them
DEPTHS: dict[PartName, int] = {"bridge": 1, "video_encoder": 3, "image_encoder": 3, "language_model": 2}
STATED = ["--num-layers", "bridge=1"]
UNUSED = re.compile(r"memory_tokens|projector\.layers\.\d+\.crossattention|retrieval\.layers\.\d+\.selfattention")


def tiny_llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, rope_theta=777.0
    )
    return LlamaForCausalLM(config)


def whole_model() -> dict[str, Tensor]:
    """An original checkpoint with every part: bridge, both towers and the language model, as stored by its authors."""
    torch.manual_seed(0)
    tensors = {f"model.mm_projector.{name}": value for name, value in ORIGINAL_BRIDGE.items()}
    for part in ("video_encoder", "image_encoder"):
        tensors |= {PARTS[part].prefix + name: torch.randn(3, 3) for name in PARTS[part].names(3)}
    tensors["model.image_tower.image_tower.embeddings.position_ids"] = torch.arange(3)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    tensors.update(tiny_llama().state_dict())
    return tensors


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("prefix", ["", "mm_projector.", "model.mm_projector.", "base_model.model.model.mm_projector."])
def test_bridge_loads_strictly_from_every_published_prefix(prefix: str) -> None:
    part = import_checkpoint(
        {prefix + name: value for name, value in ORIGINAL_BRIDGE.items()}, num_layers=DEPTHS
    ).parts["bridge"]
    bridge = VideoLLaMBBridge(64, 96, num_heads=4, mlp_width=128)
    bridge.load_state_dict(part.tensors)
    assert torch.equal(bridge.initial_memory, ORIGINAL_BRIDGE["projector.read_memory_emb"].float())
    assert sorted(part.dropped) == sorted(
        f"model.mm_projector.{name}" for name in ORIGINAL_BRIDGE if UNUSED.search(name)
    )
    assert len(part.dropped) == 21


def test_bridge_survives_the_round_trip() -> None:
    imported = import_checkpoint(ORIGINAL_BRIDGE, num_layers=DEPTHS).parts["bridge"].tensors
    exported = export_part("bridge", imported)
    assert exported.keys() == {f"model.mm_projector.{name}" for name in ORIGINAL_BRIDGE}
    for name, value in ORIGINAL_BRIDGE.items():
        expected = torch.zeros_like(value) if UNUSED.search(name) else value
        assert torch.equal(exported[f"model.mm_projector.{name}"], expected), name
    assert_same(import_checkpoint(exported, num_layers=DEPTHS).parts["bridge"].tensors, imported)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_whole_model_is_read_from_shards(kind: str, tmp_path: Path) -> None:
    original = whole_model()
    write_sharded(original, tmp_path / "original", kind)
    parts = import_checkpoint(WeightFiles(tmp_path / "original"), num_layers=DEPTHS).parts
    assert parts.keys() == PARTS.keys()
    back: dict[str, Tensor] = {}
    for name, part in parts.items():
        back |= export_part(name, part.tensors)
    kept = {name: value for name, value in original.items() if not re.search("position_ids|inv_freq", name)}
    assert back.keys() == kept.keys()
    assert all(torch.equal(back[name], value) for name, value in kept.items() if not UNUSED.search(name))
    assert parts["language_model"].dropped == ["model.layers.0.self_attn.rotary_emb.inv_freq"]


def test_unknown_and_missing_names_are_listed_and_refused() -> None:
    original = dict(ORIGINAL_BRIDGE, **{"lm_head.weight": torch.ones(1), "vision_tower.x": torch.ones(1)})
    original["projector.layers.0.extra.weight"] = original.pop("projector.proj.0.bias")
    with pytest.raises(ValueError, match="1 missing and 2 unknown") as refusal:
        import_checkpoint(original, ["bridge"], num_layers=DEPTHS)
    message = str(refusal.value)
    assert "missing tensor model.mm_projector.projector.proj.0.bias" in message
    assert "unknown tensor model.mm_projector.projector.layers.0.extra.weight" in message
    assert "unknown tensor vision_tower.x" in message


def test_names_may_be_allowed_one_by_one_or_by_pattern() -> None:
    original = dict(ORIGINAL_BRIDGE, **{"vision_tower.x": torch.ones(1), "vision_tower.y": torch.ones(1)})
    del original["projector.proj.0.bias"]
    allowed = Allowances(["*.projector.proj.0.bias"], ["vision_tower.*"])
    imported = import_checkpoint(original, ["bridge"], allowed, num_layers=DEPTHS)
    assert imported.parts["bridge"].missing == ["model.mm_projector.projector.proj.0.bias"]
    assert imported.unknown == ["vision_tower.x", "vision_tower.y"]
    with pytest.raises(ValueError, match=r"0 missing and 1 unknown tensors[\s\S]*vision_tower\.y"):
        import_checkpoint(original, ["bridge"], Allowances(allowed.missing, ["vision_tower.x"]), num_layers=DEPTHS)


def test_a_missing_layer_is_noticed() -> None:
    original = {name: value for name, value in whole_model().items() if not name.startswith("model.layers.0.")}
    with pytest.raises(ValueError, match=r"missing tensor model\.layers\.0\.self_attn\.q_proj\.weight"):
        import_checkpoint(original, ["language_model"], num_layers=DEPTHS)


def test_language_model_of_llava_is_imported_alone() -> None:
    llava: dict[str, Tensor] = dict(tiny_llama().state_dict())
    llava["model.mm_projector.0.weight"] = torch.ones(2, 2)
    imported = import_checkpoint(llava, ["language_model"], num_layers=DEPTHS)
    assert_same(imported.parts["language_model"].tensors, tiny_llama().state_dict())
    assert imported.not_wanted == {"bridge": ["model.mm_projector.0.weight"]}
    with pytest.raises(ValueError, match=r"unknown tensor model\.mm_projector\.0\.weight"):
        import_checkpoint(llava, num_layers=DEPTHS)


def test_absent_part_and_doubled_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no tensors of \['video_encoder'\]"):
        import_checkpoint(ORIGINAL_BRIDGE, ["video_encoder"], num_layers=DEPTHS)
    with pytest.raises(ValueError, match=r"no tensors of .*expected prefixes"):
        import_checkpoint({})
    with pytest.raises(ValueError, match="are the same tensor of the bridge"):
        import_checkpoint({**ORIGINAL_BRIDGE, "mm_projector.projector.proj.0.bias": torch.ones(96)}, num_layers=DEPTHS)


def adapted(form: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A linear layer with adapters as peft stores it, and the same layer merged by hand."""
    torch.manual_seed(0)
    weight, bias, down, up = torch.randn(6, 4), torch.randn(6), torch.randn(2, 4), torch.randn(6, 2)
    path = "encoder.base_model.model.layers.0.self_attn.q_proj"
    base = f"{path}.base_layer" if form == "base_layer" else path
    side = "default." if form == "base_layer" else ""
    stored = {f"{base}.weight": weight, f"{base}.bias": bias, "encoder.base_model.model.layers.0.norm.weight": bias}
    stored |= {f"{path}.lora_A.{side}weight": down, f"{path}.lora_B.{side}weight": up}
    inputs = torch.randn(3, 4)
    expected = inputs @ weight.T + bias + 16 / 2 * (inputs @ down.T) @ up.T
    return stored, {"inputs": inputs, "expected": expected}


@pytest.mark.parametrize("form", ["base_layer", "plain"])
def test_merged_adapters_compute_the_same(form: str) -> None:
    stored, example = adapted(form)
    merged = merge_adapters(stored, alpha=16)
    path = "encoder.layers.0.self_attn.q_proj"
    assert merged.keys() == {f"{path}.weight", f"{path}.bias", "encoder.layers.0.norm.weight"}
    ours = torch.nn.functional.linear(example["inputs"], merged[f"{path}.weight"], merged[f"{path}.bias"])
    torch.testing.assert_close(ours, example["expected"], atol=1e-4, rtol=1e-5)


def test_image_tower_with_adapters_equals_the_merged_one() -> None:
    plain = {name: torch.randn(4, 4) for name in PARTS["image_encoder"].names(3)}
    layer = next(name.removesuffix(".weight") for name in plain if name.endswith("q_proj.weight"))
    down, up = torch.randn(2, 4), torch.randn(4, 2)
    wrapped = {
        name.replace("encoder.", "encoder.base_model.model.").replace(layer[8:], f"{layer[8:]}.base_layer"): value
        for name, value in plain.items()
    }
    path = layer.replace("encoder.", "encoder.base_model.model.")
    wrapped |= {f"{path}.lora_A.default.weight": down, f"{path}.lora_B.default.weight": up}
    prefix = PARTS["image_encoder"].prefix
    lora = import_checkpoint(
        {prefix + name: value for name, value in wrapped.items()}, lora_alpha=6.0, num_layers=DEPTHS
    )
    plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + 3.0 * up @ down
    merged = import_checkpoint({prefix + name: value for name, value in plain.items()}, num_layers=DEPTHS)
    ours, theirs = lora.parts["image_encoder"].tensors, merged.parts["image_encoder"].tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("gone", ["lora_A", "lora_B", "base_layer.weight"])
def test_half_an_adapter_is_refused(gone: str) -> None:
    stored = {name: value for name, value in adapted("base_layer")[0].items() if gone not in name}
    with pytest.raises(ValueError, match=r"adapters of encoder\.layers\.0\.self_attn\.q_proj cannot be merged"):
        merge_adapters(stored, alpha=16)


@pytest.mark.parametrize("part", ["bridge", "video_encoder", "language_model"])
def test_adapters_elsewhere_than_in_the_image_encoder_are_refused(part: PartName) -> None:
    """Merging them with ``lora_alpha``, which belongs to the image encoder, would give wrong weights."""
    tensors = {PARTS[part].prefix + name: torch.randn(4, 4) for name in PARTS[part].names(DEPTHS[part])}
    weight = next(name for name in tensors if name.endswith("q_proj.weight"))
    path = weight.removesuffix(".weight")
    tensors[f"{path}.base_layer.weight"] = tensors.pop(weight)
    tensors |= {f"{path}.lora_A.default.weight": torch.ones(2, 4), f"{path}.lora_B.default.weight": torch.ones(4, 2)}
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=rf"{part}: 2 tensors are LoRA adapters.*Merge these with the tool"):
        import_checkpoint(wrapped, num_layers=DEPTHS)


def test_exporting_another_bridge_says_so() -> None:
    bridge = RecurrentMemoryBridge(16, 16, num_heads=4)
    with pytest.raises(ValueError, match="most of this bridge has no place in the published one: another class"):
        export_part("bridge", bridge.state_dict())


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_command_line_exports_a_lone_projector(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"mm_projector.{suffix}"
    main(["import", str(GOLDENS / "bridge_weights.safetensors"), str(tmp_path / "ours"), *STATED])
    main(["export", str(tmp_path / "ours"), str(target), "--part", "bridge"])
    exported = WeightFiles(target)
    assert exported.keys() == {f"model.mm_projector.{name}" for name in ORIGINAL_BRIDGE}


def test_command_line_refuses_with_the_reason(tmp_path: Path) -> None:
    incomplete = {name: value for name, value in ORIGINAL_BRIDGE.items() if not name.startswith("retrieval")}
    save_file(incomplete, tmp_path / "bridge.safetensors")
    arguments = ["import", str(tmp_path / "bridge.safetensors"), str(tmp_path / "ours"), *STATED]
    with pytest.raises(ValueError, match="10 missing and 0 unknown"):
        main(arguments)
    assert not (tmp_path / "ours").exists()
    main([*arguments, "--allow-missing", "*.retrieval.*"])
    assert (tmp_path / "ours" / "bridge.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="has no part to export"):
        main(["export", str(tmp_path / "nowhere"), str(tmp_path / "back")])


@pytest.mark.parametrize("arguments", [["--help"], ["import", "--help"], ["export", "--help"]])
def test_help_is_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert "components.weights.videollamb" in capsys.readouterr().out
