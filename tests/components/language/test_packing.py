"""Packed conversations have the same losses and gradients as unpacked ones, and do not affect each other."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from components.interfaces import TEXT_ONLY, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.language.packing import assign_to_rows, pack_rows
from components.language.splice import splice
from components.losses import answer_loss_per_reading
from tests.components.tiny_language import make_model_folder, make_text, make_visual

UNEVEN = [
    (1, "what colour is the circle shown at the beginning and then ? " * 3, "red circle"),
    (TEXT_ONLY, "say hello", "hello"),
    (0, "how many ?", "one two three"),
    (0, "what colour ?", None),
    (1, "?", "no"),
    (TEXT_ONLY, "and ?", "yes"),
]
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("llama"))


def loss_and_gradients(
    model: HuggingFaceCausalLM, visual: VisualTokens, text: TextInputs
) -> tuple[Tensor, list[Tensor | None]]:
    visual = visual._replace(tokens=visual.tokens.clone().requires_grad_())
    model.zero_grad()
    nll = model(visual, text).nll
    nll.sum().backward()
    trained = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return nll.detach(), [visual.tokens.grad, *trained]


@pytest.mark.parametrize(
    ("model_type", "attn", "changes"),
    [
        ("llama", "sdpa", {}),
        ("llama", "eager", {}),
        ("qwen2", "sdpa", SLIDING),
        ("gemma2", "eager", {"query_pre_attn_scalar": 8, "sliding_window": 4}),
        ("gpt2", "sdpa", {}),
    ],
)
def test_packed_losses_and_gradients_are_the_unpacked_ones(
    tmp_path: Path, model_type: str, attn: Any, changes: dict[str, Any]
) -> None:
    folder = str(make_model_folder(tmp_path, model_type, **changes))
    plain, packing = (HuggingFaceCausalLM(folder, attn=attn, pack=pack).eval() for pack in (False, True))
    visual, text = make_visual(), make_text(plain, UNEVEN, padding=3)
    packed = loss_and_gradients(packing, visual, text)
    torch.testing.assert_close(packed, loss_and_gradients(plain, visual, text), atol=1e-5, rtol=1e-5)
    assert torch.equal(packing(visual, text).num_tokens, plain(visual, text).num_tokens)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_conversations_of_a_row_do_not_see_each_other(llama: Path, attn: Any) -> None:
    model = HuggingFaceCausalLM(str(llama), attn=attn, pack=True).eval()
    visual, text = make_visual(), make_text(model, UNEVEN)
    packed = pack_rows(splice(visual, text, model.embed(text.input_ids)), single_row=False)
    assert packed.row.bincount().max() >= 3
    before = model(visual, text).nll
    for changed in range(len(UNEVEN)):
        other = text._replace(input_ids=text.input_ids.clone())
        real = text.text_mask[changed] & (text.input_ids[changed] > 0)
        other.input_ids[changed, real] = (other.input_ids[changed, real] + 7) % 30 + 4
        after = model(visual, other).nll
        rest = [row for row in range(len(UNEVEN)) if row != changed]
        assert torch.equal(after[rest], before[rest])
        assert UNEVEN[changed][2] is None or after[changed] != before[changed]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_loss_of_a_conversation_has_no_gradient_in_another(llama: Path, attn: Any) -> None:
    model = HuggingFaceCausalLM(str(llama), attn=attn, pack=True).eval()
    text = make_text(model, UNEVEN)
    visual = make_visual((3, 5, 2, 4))._replace(row_index=torch.tensor([0, TEXT_ONLY, 1, 2, 3, TEXT_ONLY])[:, None])
    visual.tokens.requires_grad_()
    nll = model(visual, text).nll
    for conversation, row in ((0, 0), (2, 1), (4, 3)):  # every conversation has visual tokens of its own
        (gradient,) = torch.autograd.grad(nll[conversation], visual.tokens, retain_graph=True)
        assert gradient.flatten(1).any(dim=1).tolist() == [other == row for other in range(4)]


def test_fewer_positions_are_computed_and_no_row_is_longer_than_the_longest_conversation(llama: Path) -> None:
    shapes = []
    for pack in (False, True):
        model = HuggingFaceCausalLM(str(llama), pack=pack).eval()
        model.model.model.layers[0].register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
        model(make_visual(), make_text(model, UNEVEN))
    (rows, width), (packed_rows, packed_width) = shapes
    assert rows == len(UNEVEN)
    assert packed_rows == 3
    assert packed_width == width


@pytest.mark.parametrize("largest_first", [False, True])
def test_placed_conversations_fill_rows_without_overlap(largest_first: bool) -> None:
    generator = random.Random(0)
    for _ in range(50):
        lengths = [generator.randint(0, 40) for _ in range(generator.randint(1, 30))]
        places = assign_to_rows(lengths, 40, largest_first=largest_first)
        used = [(row, start + step) for (row, start), n in zip(places, lengths, strict=True) for step in range(n)]
        assert len(set(used)) == len(used)
        assert all(column < 40 for _, column in used)
        fill = [sum(each == row for each, _ in used) for row in range(1 + max(row for row, _ in places))]
        assert all(one + other > 40 for one, other in itertools.combinations(fill, 2)), "two rows would fit into one"
    assert assign_to_rows([3, 6, 4, 7], 10) == [(0, 7), (1, 0), (1, 6), (0, 0)]


def test_every_segment_loss_lora_and_gradient_checkpointing_work_packed(llama: Path) -> None:
    results = []
    for pack in (False, True):
        torch.manual_seed(0)
        options: dict[str, Any] = {"lora": LoraSettings(rank=2, dropout=0.0), "gradient_checkpointing": True}
        model = HuggingFaceCausalLM(str(llama), pack=pack, **options)  # in training mode as built
        readings = [make_visual(seed=seed) for seed in range(3)]
        for reading in readings:
            reading.tokens.requires_grad_()
        losses = answer_loss_per_reading(model, readings, make_text(model, UNEVEN))
        torch.stack([loss.nll for loss in losses]).sum().backward()
        adapters = [parameter.grad for name, parameter in model.named_parameters() if "lora_" in name]
        scored = [(loss.nll, loss.num_tokens, loss.num_positions) for loss in losses]
        results.append((scored, [reading.tokens.grad for reading in readings], adapters))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=5e-5)  # other kernels


def test_packed_batch_without_labels_gives_zeros_and_keeps_every_part_in_the_graph(llama: Path) -> None:
    model = HuggingFaceCausalLM(str(llama), pack=True)
    visual = make_visual()
    visual.tokens.requires_grad_()
    loss = model(visual, make_text(model, [(0, "what ?", None), (TEXT_ONLY, "yes", None), (TEXT_ONLY, "no", None)]))
    assert loss.nll.tolist() == [0.0, 0.0, 0.0]
    loss.nll.sum().backward()
    assert all(tensor.grad is not None for tensor in (visual.tokens, *model.parameters()))


def test_answers_are_generated_and_options_scored_as_without_packing(llama: Path) -> None:
    plain, packing = (HuggingFaceCausalLM(str(llama), pack=pack) for pack in (False, True))
    visual, text = make_visual(), make_text(plain, UNEVEN)
    assert packing.generate(visual, text, 4) == plain.generate(visual, text, 4)
    options = [["red", "green circle"]] * len(UNEVEN)
    torch.testing.assert_close(packing.score_options(visual, text, options), plain.score_options(visual, text, options))


def attend_within_boundaries(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """The result of FlashAttention with boundaries: causal attention within each conversation of the row."""
    assert attention_mask is None
    assert query.shape[0] == 1
    ends = options["cu_seq_lens_q"].tolist()
    assert torch.equal(options["cu_seq_lens_q"], options["cu_seq_lens_k"])
    assert options["cu_seq_lens_q"].dtype == torch.int32
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    assert options["max_length_q"] == options["max_length_k"] == max(lengths)
    parts = [part.split(lengths, dim=2) for part in (query, key, value)]
    attended = [
        functional.scaled_dot_product_attention(*each, is_causal=True, enable_gqa=True)
        for each in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def test_flash_attention_is_given_one_row_without_padding_and_its_boundaries(llama: Path) -> None:
    AttentionInterface.register("flash_for_test", attend_within_boundaries)
    AttentionMaskInterface.register("flash_for_test", flash_attention_mask)
    plain, packing = (HuggingFaceCausalLM(str(llama), pack=pack).eval() for pack in (False, True))
    packing.model.config._attn_implementation = "flash_for_test"
    visual, text = make_visual(), make_text(plain, UNEVEN, padding=2)
    shapes: list[torch.Size] = []
    packing.model.model.layers[0].register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    packed, unpacked = (loss_and_gradients(model, visual, text) for model in (packing, plain))
    torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)
    assert shapes[0][:2] == (1, int(splice(visual, text, plain.embed(text.input_ids)).mask.sum()))


def test_model_whose_mask_ignores_positions_is_refused_when_it_first_packs(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, "opt", ffn_dim=48, word_embed_proj_dim=32)
    model = HuggingFaceCausalLM(str(folder), pack=True).eval()
    one = make_text(model, UNEVEN[:1])
    torch.testing.assert_close(model(make_visual(), one), HuggingFaceCausalLM(str(folder)).eval()(make_visual(), one))
    with pytest.raises(ValueError, match="OPTForCausalLM and sdpa attention: its tokens would attend to other"):
        model(make_visual(), make_text(model, UNEVEN))


def test_model_that_carries_a_state_along_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, "mamba", state_size=4, num_heads=1)
    with pytest.raises(ValueError, match="MambaForCausalLM: layers of it carry a state"):
        HuggingFaceCausalLM(str(folder), attn="eager", pack=True)
