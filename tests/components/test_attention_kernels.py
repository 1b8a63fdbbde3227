import importlib.metadata
import importlib.util
import logging
from typing import Any

import pytest
import torch
from transformers import (
    BloomForCausalLM,
    Gemma2ForCausalLM,
    GptOssForCausalLM,
    LlamaForCausalLM,
    MptForCausalLM,
)

from components.attention_kernels import AttentionChoice, resolve_attention


@pytest.fixture
def gpu_with_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _module: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda _distribution: "2.8.3")


@pytest.mark.parametrize("choice", ["sdpa", "eager", "flex_attention"])
def test_choice_that_is_possible_is_taken(choice: AttentionChoice) -> None:
    assert resolve_attention(choice, "cpu") == choice


def test_auto_without_a_gpu_takes_sdpa_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve_attention("auto", "cpu") == "sdpa"
    assert "attention: sdpa (auto: no FlashAttention 2, it needs an NVIDIA GPU" in caplog.text


@pytest.mark.parametrize("choice", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_without_a_gpu_is_refused(choice: AttentionChoice) -> None:
    with pytest.raises(ValueError, match=f"attn='{choice}' cannot be used: it needs an NVIDIA GPU"):
        resolve_attention(choice, "cpu")


def test_flash_attention_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"package flash-attn-3 \(module flash_attn_interface\) is not installed"):
        resolve_attention("flash_attention_3", "cuda")


@pytest.mark.usefixtures("gpu_with_flash_attention")
@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, "flash_attention_2"), (None, "flash_attention_2"), (torch.float32, "sdpa")]
)
def test_auto_takes_flash_attention_where_it_can_run(dtype: torch.dtype | None, expected: str) -> None:
    assert resolve_attention("auto", "cuda", dtype) == expected


@pytest.mark.usefixtures("gpu_with_flash_attention")
def test_flash_attention_in_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it needs float16 or bfloat16, and the model's dtype is float32"):
        resolve_attention("flash_attention_2", "cuda", torch.float32)


def test_unknown_choice_is_refused() -> None:
    choice: Any = "flash"
    with pytest.raises(ValueError, match="attn='flash' is unknown; choose one of auto"):
        resolve_attention(choice, "cpu")


@pytest.mark.parametrize("model_class", [Gemma2ForCausalLM, GptOssForCausalLM, BloomForCausalLM, MptForCausalLM])
def test_auto_takes_eager_attention_where_a_model_has_nothing_else(
    model_class: type, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_attention("auto", "cpu", None, model_class) == "eager"
    assert f"no SDPA, {model_class.__name__} has no such attention" in caplog.text
    assert resolve_attention("auto", "cpu", None, LlamaForCausalLM) == "sdpa"


def test_a_kernel_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="attn='sdpa' cannot be used: Gemma2ForCausalLM has no such attention"):
        resolve_attention("sdpa", "cpu", None, Gemma2ForCausalLM)


@pytest.mark.usefixtures("gpu_with_flash_attention")
def test_auto_on_a_gpu_takes_flash_attention_only_where_the_model_runs_on_it() -> None:
    assert resolve_attention("auto", "cuda", torch.bfloat16, Gemma2ForCausalLM) == "flash_attention_2"
    assert resolve_attention("auto", "cuda", torch.bfloat16, GptOssForCausalLM) == "eager"  # other flash kernels alone
