"""A language model with merged adapters gives the same results as before, for every kind of layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from components.language.adapters import merge_adapters_of
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.weights.lora import merge_adapters
from tests.components.tiny_language import make_model_folder

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CASES: dict[str, tuple[str, dict[str, Any], str | list[str]]] = {
    "linear": ("llama", {}, "all-linear"),
    "square Conv1D": ("gpt2", GPT2, ["attn.c_proj"]),
    "Conv1D": ("gpt2", GPT2, "all-linear"),
    "embeddings": ("llama", {}, ["q_proj", "embed_tokens"]),
    "output layer": ("llama", {}, ["q_proj", "lm_head"]),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}, ["q_proj", "embed_tokens"]),
    "tied output layer": ("llama", {"tie_word_embeddings": True}, ["lm_head"]),
    "tied, both": ("llama", {"tie_word_embeddings": True}, ["embed_tokens", "lm_head"]),
}


def adapted(folder: Path, targets: str | list[str], **options: Any) -> HuggingFaceCausalLM:
    """A model with adapters that are not zero."""
    lora = LoraSettings(rank=2, alpha=4, dropout=0.0, target_modules=targets)
    return fill(HuggingFaceCausalLM(str(folder), lora=lora, **options).eval())


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40)[None]).logits.float()  # type: ignore[no-any-return]


def fill(part: HuggingFaceCausalLM) -> HuggingFaceCausalLM:
    """Set adapters to weights that are not zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return part


def assert_merged_is_the_same(part: HuggingFaceCausalLM, folder: Path, out: Path) -> None:
    expected, before = logits(part.model), logits(AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval())
    assert merge_adapters_of(part.model)
    part.model.save_pretrained(out)
    plain = AutoModelForCausalLM.from_pretrained(out, dtype="float32").eval()
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(part.model), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)
    assert not [name for name in plain.state_dict() if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize("case", CASES)
def test_merged_model_computes_what_it_did_with_adapters_and_loads_as_a_plain_one(tmp_path: Path, case: str) -> None:
    model_type, sizes, targets = CASES[case]
    folder = make_model_folder(tmp_path / "lm", model_type, **sizes)
    assert_merged_is_the_same(adapted(folder, targets), folder, tmp_path / "out")


def test_adapters_of_fused_experts_are_merged(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "lm", "qwen3_moe", **EXPERTS)
    part = HuggingFaceCausalLM(str(folder)).eval()
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"], target_parameters=parameters), part.model)
    assert_merged_is_the_same(fill(part), folder, tmp_path / "out")


def test_adapters_beside_half_precision_weights_are_merged_without_rounding(tmp_path: Path) -> None:
    part = adapted(make_model_folder(tmp_path / "lm"), ["q_proj"], dtype="bfloat16")
    layer: Any = part.model.model.layers[0].self_attn.q_proj
    expected = layer.base_layer.weight.float() + 2.0 * (
        layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
    )
    merge_adapters_of(part.model)
    torch.testing.assert_close(part.model.model.layers[0].self_attn.q_proj.weight, expected.detach())


def test_model_without_adapters_is_left_as_it_is(tmp_path: Path) -> None:
    part = HuggingFaceCausalLM(str(make_model_folder(tmp_path / "lm", tie_word_embeddings=True)))
    assert not merge_adapters_of(part.model)
    assert part.model.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("square Conv1D", r"is not that of an nn\.Linear"),
        ("Conv1D", r"is not that of an nn\.Linear"),
        ("embeddings", r"adapters of other layers than nn\.Linear.*lora_embedding_"),
    ],
)
def test_adapters_in_a_file_that_are_not_of_linear_layers_are_refused(tmp_path: Path, case: str, message: str) -> None:
    model_type, sizes, targets = CASES[case]
    part = adapted(make_model_folder(tmp_path / "lm", model_type, **sizes), targets)
    with pytest.raises(ValueError, match=message):
        merge_adapters(part.model.state_dict(), 4.0)


@pytest.mark.parametrize(
    "name", ["layer.lora_magnitude_vector.default.weight", "layer.lora_A.other.weight", "layer.lora_B.default.bias"]
)
def test_any_part_of_an_adapter_that_is_left_over_is_refused(name: str) -> None:
    tensors = {"layer.weight": torch.ones(3, 3), name: torch.ones(3)}
    with pytest.raises(ValueError, match=r"such as layer\.lora_"):
        merge_adapters(tensors, 4.0)


def test_adapter_files_beside_a_language_model_are_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "lm")
    part = adapted(folder, ["q_proj"])
    part.model._hf_peft_config_loaded = True
    part.model.save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "adapter").iterdir():
        path.rename(folder / path.name)
    with pytest.raises(ValueError, match=r"holds adapters \(adapter_config\.json\)"):
        HuggingFaceCausalLM(str(folder))
