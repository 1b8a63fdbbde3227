from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM

from components.interfaces import TEXT_ONLY
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from tests.components.tiny_language import make_model_folder, make_text, make_visual
from tests.fixtures_data import CHAT_TEMPLATE

gguf = pytest.importorskip("gguf")

HEADS, KEY_VALUE_HEADS = 4, 2
NAMES = {  # as llama.cpp calls them
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def interleave(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp stores the two halves of a rotary head as alternating rows."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(folder: Path, path: Path) -> None:
    """Write a tiny Llama of ``folder`` as one file, with a byte-level tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "red"]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["r e", "re d"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in model.state_dict().items():
        short = name.removesuffix(".weight")
        if "q_proj" in name or "k_proj" in name:
            tensor = interleave(tensor, HEADS if "q_proj" in name else KEY_VALUE_HEADS)
        for theirs, ours in NAMES.items():
            short = short.replace(theirs, ours)
        writer.add_tensor(f"{short}.weight", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_file_gives_the_same_model_with_its_own_tokenizer(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "folder")
    target = tmp_path / "gguf"
    target.mkdir()
    write_gguf(folder, target / "tiny.gguf")
    model = HuggingFaceCausalLM(str(target), gguf_file="tiny.gguf").eval()
    reference = HuggingFaceCausalLM(str(folder)).eval()
    assert model.tokenizer.convert_ids_to_tokens(model.chat.answer_ids("red")) == ["red", "<|im_end|>"]
    visual, text = make_visual(), make_text(model, [(0, "what ?", "red"), (TEXT_ONLY, "hello", "yes")])
    torch.testing.assert_close(model(visual, text), reference(visual, text), atol=1e-4, rtol=1e-4)
    adapted = HuggingFaceCausalLM(str(target), gguf_file="tiny.gguf", lora=LoraSettings(rank=2)).eval()
    torch.testing.assert_close(adapted(visual, text), model(visual, text))
