"""Language models of other kinds: composite ones, mixtures of experts, without SDPA, with tokens beyond embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
)

from components.interfaces import TEXT_ONLY, VIDEO_PLACEHOLDER
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.language.probe import embeddings_problem, unused_parameters
from components.language.text_limits import TextLimitError, context_length
from tests.components.tiny_language import (
    RECURRENT,
    SIZES,
    VOCABULARY,
    WIDTH,
    make_model_folder,
    make_text,
    make_visual,
)
from tests.fixtures_data import make_tiny_tokenizer

VISION: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION |= {"image_size": 16, "patch_size": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROWS = [(1, "what colour ?", "red circle"), (TEXT_ONLY, "say hello", "hello")]


def gemma3() -> Any:
    layers = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=SIZES | layers, vision_config=VISION, mm_tokens_per_image=4)
    )


def llava(**settings: Any) -> Any:
    text = {"model_type": "llama", **SIZES}
    config = LlavaConfig(text_config=text, vision_config={"model_type": "clip_vision_model", **VISION}, **settings)
    return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("make", [gemma3, llava])
def test_the_text_part_of_a_composite_model_is_taken_alone(tmp_path: Path, make: Any, dtype: Any) -> None:
    torch.manual_seed(0)
    composite = make().eval()
    composite.save_pretrained(tmp_path)
    model = HuggingFaceCausalLM(str(make_tiny_tokenizer(tmp_path)), dtype=dtype).eval()
    ids = torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(model.model(input_ids=ids).logits, composite(input_ids=ids).logits)
    assert not any("vision" in name or "projector" in name for name, _ in model.named_parameters())
    assert model.probe() == []
    assert model.unused_parameters() == []
    assert len(model.generate(make_visual(), make_text(model, ROWS), 2)) == 2


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_text_part_whose_embeddings_the_composite_model_ties_is_written_and_read_as_such(
    tmp_path: Path, is_tied: bool
) -> None:
    llava(tie_word_embeddings=is_tied).save_pretrained(tmp_path / "llava")
    first = HuggingFaceCausalLM(str(make_tiny_tokenizer(tmp_path / "llava"))).eval()
    first.model.save_pretrained(tmp_path / "llama")
    second = HuggingFaceCausalLM(str(make_tiny_tokenizer(tmp_path / "llama"))).eval()
    for model in (first.model, second.model):
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == is_tied
    ids = torch.tensor([[2, 7, 8, 9]])
    torch.testing.assert_close(second.model(input_ids=ids).logits, first.model(input_ids=ids).logits)


def test_adapters_of_a_composite_model_are_its_text_parts(tmp_path: Path) -> None:
    gemma3().save_pretrained(tmp_path)
    model = HuggingFaceCausalLM(str(make_tiny_tokenizer(tmp_path)), weights="random", lora=LoraSettings(rank=2))
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 2 * 7


def test_a_composite_model_without_a_language_model_of_its_own_is_named_in_one_line(tmp_path: Path) -> None:
    Qwen2_5_VLConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no causal language model for the text part 'qwen2_5_vl_text'") as caught:
        HuggingFaceCausalLM(str(make_tiny_tokenizer(tmp_path)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gemma2", {"query_pre_attn_scalar": 8}),
        ("gpt_oss", EXPERTS | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
        ("bloom", {"n_head": 4}),
        ("mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": 2}),
        ("qwen3", {}),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_models_of_any_attention_answer_by_default(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, model_type, **changes))).eval()
    assert model.probe() == []
    assert model.unused_parameters() == []
    assert model(make_visual(width=model.dim), make_text(model, ROWS)).nll.isfinite().all()


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "llama4_text"])
def test_adapters_leave_experts_as_they_are(tmp_path: Path, model_type: str) -> None:
    folder = str(make_model_folder(tmp_path, model_type, **EXPERTS))
    model = HuggingFaceCausalLM(folder, lora=LoraSettings(rank=2))
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[1] for name, _ in model.named_parameters() if "lora_" in name}
    shared = {"gate_proj", "up_proj", "down_proj"} if model_type == "llama4_text" else set()
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", *shared}
    model(make_visual(), make_text(model, ROWS)).nll.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_adapters_beside_experts_say_what_to_set(tmp_path: Path) -> None:
    folder = str(make_model_folder(tmp_path, "qwen3_moe", **EXPERTS))
    with pytest.raises(ValueError, match=r"lora\.target_modules.*set lora\.dropout to 0\.0"):
        HuggingFaceCausalLM(folder, lora=LoraSettings(target_modules=["q_proj", "gate_proj", "up_proj", "down_proj"]))
    with pytest.raises(ValueError, match=r"lora\.target_modules \['query'\] does not work with LlamaForCausalLM"):
        HuggingFaceCausalLM(str(make_model_folder(tmp_path / "llama")), lora=LoraSettings(target_modules=["query"]))


def test_a_token_without_embedding_is_refused_in_text_alone(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    missing = VOCABULARY - len(tokenizer)
    tokenizer.add_tokens([AddedToken(f"<picture{number}>", special=False) for number in range(missing + 1)])
    tokenizer.save_pretrained(folder)
    model = HuggingFaceCausalLM(str(folder)).eval()
    text = make_text(model, [(1, "what colour ?", "red"), (0, f"what <picture{missing}> ?", "red")])
    model(make_visual(), make_text(model, ROWS))
    with pytest.raises(TextLimitError, match=rf"conversation 1.*id {VOCABULARY}.*embeddings for ids below") as caught:
        model(make_visual(), text)
    assert caught.value.conversation == 1


def test_conversations_beyond_the_context_are_refused_with_their_visual_tokens(tmp_path: Path) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, max_position_embeddings=32))).eval()
    visual, text = make_visual((3, 5)), make_text(model, [(0, "?", "no"), (1, "what colour ?", "red")])
    length = int(text.text_mask[1].sum()) - 1 + 5
    visual_of_length = make_visual((3, 5 + 32 - length))
    model(visual_of_length, text)  # just fits
    with pytest.raises(TextLimitError, match=r"it has 33 tokens.*max_position_embeddings of .* is 32"):
        model(make_visual((3, 6 + 32 - length)), text)
    prompts = make_text(model, [(1, "what colour ?", None)])
    room = 32 - (int(prompts.text_mask.sum()) - 1 + 5)
    model.generate(visual, prompts, room)
    with pytest.raises(TextLimitError, match=f"up to {room + 1} tokens of an answer"):
        model.generate(visual, prompts, room + 1)
    two = make_text(model, [(0, "?", None), (1, "what colour ?", None)])
    with pytest.raises(TextLimitError, match="of an answer") as caught:
        model.score_options(visual, two, [["no"], ["no", "red " * 32]])
    assert caught.value.conversation == 1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AutoConfig.for_model("llama", max_position_embeddings=64), 64),
        (AutoConfig.for_model("gpt2", n_positions=128), 128),
        (AutoConfig.for_model("bloom"), None),
        (AutoConfig.for_model("falcon", alibi=True), None),
        (Gemma3Config(text_config={"max_position_embeddings": 96}), 96),
        (
            AutoConfig.for_model(
                "qwen2",
                max_position_embeddings=100,
                rope_parameters={
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 100,
                    "rope_theta": 1e4,
                },
            ),
            400,
        ),
    ],
)
def test_the_context_is_known_by_every_name_it_has(config: Any, expected: int | None) -> None:
    assert context_length(config) == expected


class ReadsIds(nn.Module):
    """A model that, like Gemma-3n, adds an embedding per id, and has parameters that are not used."""

    def __init__(self, *, reads_ids: bool) -> None:
        super().__init__()
        self.reads_ids = reads_ids
        self.table = nn.Embedding(9, 4)
        self.unread = nn.Linear(4, 4)

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, use_cache: bool = True
    ) -> Any:
        hidden = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        if self.reads_ids and input_ids is not None:
            hidden = hidden + input_ids[..., None]
        return type("Output", (), {"logits": hidden * 2})


def test_models_that_need_ids_beside_embeddings_are_found() -> None:
    ids = torch.tensor([[5, 6]])
    for reads_ids in (False, True):
        model = ReadsIds(reads_ids=reads_ids)
        problem = embeddings_problem(model, ids, model.table(ids))
        assert (problem is not None) == reads_ids
    assert problem is not None
    assert "it also reads the ids" in problem


def test_parameters_that_no_answer_depends_on_are_found() -> None:
    model = ReadsIds(reads_ids=False)
    assert unused_parameters(model, model.table(torch.tensor([[5, 6]]))) == ["unread.bias", "unread.weight"]


def test_placeholder_is_no_token_without_embedding(tmp_path: Path) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path)))
    model.limits.check_ids(torch.tensor([[VIDEO_PLACEHOLDER, 5]]))


def test_a_model_that_takes_no_cache_cannot_answer(tmp_path: Path) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, "rwkv")))
    [problem] = model.probe()
    assert "RwkvForCausalLM takes no transformers.Cache; choose another language model" in problem


@pytest.mark.parametrize("model_type", RECURRENT)
def test_options_of_a_model_with_recurrent_layers_are_scored_as_whole_texts(tmp_path: Path, model_type: str) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, model_type, **RECURRENT[model_type]))).eval()
    visual, text = make_visual(), make_text(model, [(0, "what colour ?", None)])
    options = ["red", "blue circle"]
    [scores] = model.score_options(visual, text, [options])
    for option, score in zip(options, scores, strict=True):
        answered = model(visual, make_text(model, [(0, "what colour ?", option)]))
        torch.testing.assert_close(-score, answered.nll[0] / answered.num_tokens[0])
