import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from tests.components.tiny_language import VOCABULARY, WIDTH, make_model_folder, make_text, make_visual, row_of

MIXED = [
    (1, "what colour ?", "red circle"),
    (TEXT_ONLY, "say hello", "hello"),
    (0, "how many ?", "one two three"),
    (1, "?", "no"),
]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(folder: Path) -> HuggingFaceCausalLM:
    return HuggingFaceCausalLM(str(folder)).eval()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (str(tmp_path / "gone"), ".cache/not/here"):
        with pytest.raises(ValueError, match=r"no language model in .*(gone|not/here).*expected a folder"):
            HuggingFaceCausalLM(path)


def test_batch_equals_its_conversations_one_by_one(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual(), make_text(model, MIXED, padding=3)
    batched = model(visual, text)
    for row in range(len(MIXED)):
        alone = model(visual, row_of(text, row))
        torch.testing.assert_close(batched.nll[row : row + 1], alone.nll, atol=1e-5, rtol=1e-5)
        assert batched.num_tokens[row] == alone.num_tokens[0]
    answers = [len(model.chat.answer_ids(answer)) for _, _, answer in MIXED]  # the end of the turn included
    assert batched.num_tokens.tolist() == answers
    assert batched.nll.dtype == torch.float32
    assert model.dim == WIDTH


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("granite", {"logits_scaling": 3.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("gemma2", {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8}),
    ],
)
def test_loss_is_that_of_the_whole_model_on_the_spliced_text(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    folder = make_model_folder(tmp_path, model_type, **changes)
    model = HuggingFaceCausalLM(str(folder), attn="eager").eval()
    visual, text = make_visual(), make_text(model, MIXED[:1])
    place = int((text.input_ids[0] == VIDEO_PLACEHOLDER).nonzero())
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    words = reference.get_input_embeddings()(text.input_ids.clamp(min=0))
    joined = torch.cat([words[:, :place], visual.tokens[1:, visual.mask[1]], words[:, place + 1 :]], dim=1)
    logits = reference(inputs_embeds=joined).logits[0]
    labels = text.labels[0][text.labels[0] != IGNORED_LABEL]
    expected = functional.cross_entropy(logits[-len(labels) - 1 : -1], labels, reduction="sum")
    torch.testing.assert_close(model(visual, text).nll[0], expected, atol=1e-5, rtol=1e-5)


def test_output_layer_sees_labelled_positions_only(model: HuggingFaceCausalLM) -> None:
    shapes = []
    output_layer = model.model.get_output_embeddings()
    output_layer.register_forward_hook(lambda _, args, output: shapes.append(output.shape))
    loss = model(make_visual(), make_text(model, MIXED))
    assert [shape[:-1].numel() for shape in shapes] == [int(loss.num_tokens.sum())]


def test_masked_visual_tokens_and_padding_change_nothing(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual((2, 5)), make_text(model, MIXED)
    plain = model(visual, text)
    visual.tokens[~visual.mask] = 1e6
    padded = make_text(model, MIXED, padding=4)
    torch.testing.assert_close(model(visual, padded), plain)


def test_visual_tokens_matter(model: HuggingFaceCausalLM) -> None:
    text = make_text(model, MIXED)
    first, second = model(make_visual(seed=0), text), model(make_visual(seed=1), text)
    changed = (first.nll - second.nll).abs() > 1e-4
    assert changed.tolist() == [video != TEXT_ONLY for video, _, _ in MIXED]


def test_batch_without_labels_gives_zeros_and_keeps_every_part_in_the_graph(model: HuggingFaceCausalLM) -> None:
    visual = make_visual()
    visual.tokens.requires_grad_()
    loss = model(visual, make_text(model, [(0, "what ?", None), (TEXT_ONLY, "yes", None)]))
    assert loss.nll.tolist() == [0.0, 0.0]
    assert loss.num_tokens.tolist() == [0, 0]
    loss.nll.sum().backward()
    for tensor in (visual.tokens, *model.parameters()):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_label_that_nothing_predicts_is_not_counted(model: HuggingFaceCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7]])
    text = TextInputs(ids, torch.ones_like(ids, dtype=torch.bool), ids, torch.tensor([[TEXT_ONLY]]))
    assert model(make_visual(), text).num_tokens.tolist() == [2]


def test_random_weights_differ_from_the_checkpoint_and_follow_the_seed(llama: Path) -> None:
    def built(weights: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = HuggingFaceCausalLM(str(llama), weights=weights)  # type: ignore[arg-type]
        weight: torch.Tensor = model.model.get_output_embeddings().weight
        return weight.detach()

    assert torch.equal(built("pretrained", 1), built("pretrained", 2))
    assert torch.equal(built("random", 1), built("random", 1))
    assert not torch.equal(built("random", 1), built("random", 2))
    assert not torch.equal(built("random", 1), built("pretrained", 1))


def test_dtype_auto_is_the_configured_one(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, dtype="bfloat16")
    for weights in ("pretrained", "random"):
        model = HuggingFaceCausalLM(str(folder), weights=weights, dtype="auto")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        loss = model(make_visual(), make_text(model, MIXED))
        assert loss.nll.dtype == torch.float32


def test_lora_starts_as_the_base_and_trains_only_adapters(llama: Path) -> None:
    plain, adapted = HuggingFaceCausalLM(str(llama)), HuggingFaceCausalLM(str(llama), lora=LoraSettings(rank=2))
    visual, text = make_visual(), make_text(plain, MIXED)
    visual.tokens.requires_grad_()
    loss = adapted.eval()(visual, text)
    torch.testing.assert_close(loss, plain.eval()(visual, text))
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    linear_layers = sum(isinstance(module, torch.nn.Linear) for module in plain.modules()) - 1  # but the output layer
    assert len(trainable) == 2 * linear_layers
    assert all("lora_" in name for name in trainable)
    loss.nll.sum().backward()
    assert visual.tokens.grad is not None
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_frozen_model_still_passes_gradients_to_the_visual_tokens(llama: Path) -> None:
    model = HuggingFaceCausalLM(str(llama), freeze=True)
    visual = make_visual()
    visual.tokens.requires_grad_()
    model(visual, make_text(model, MIXED)).nll.sum().backward()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert visual.tokens.grad is not None
    assert torch.equal(visual.tokens.grad.any(dim=2), visual.mask)


def test_gradient_checkpointing_gives_the_same_gradients_from_fewer_saved_tensors(llama: Path) -> None:
    gradients, saved = [], []
    for checkpointing in (False, True):
        model = HuggingFaceCausalLM(str(llama), gradient_checkpointing=checkpointing)  # in training mode as built
        visual = make_visual()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):  # type: ignore[misc]
            loss = model(visual, make_text(model, MIXED)).nll.sum()
        loss.backward()
        saved.append(sum(sizes))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert saved[1] < 0.7 * saved[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze": True, "lora": LoraSettings()}, "freeze=True and lora"),
        ({"weights": "trained"}, "expected 'pretrained' or 'random'"),
        ({"attn": "flash"}, "attn='flash' is unknown"),
    ],
)
def test_contradicting_or_unknown_arguments_are_refused(
    llama: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceCausalLM(str(llama), **arguments)  # type: ignore[arg-type]


def test_checkpoint_without_all_weights_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks weights.*layers\.1\.mlp\.down_proj"):
        HuggingFaceCausalLM(str(folder))


@pytest.mark.parametrize("changed", [{"vocab_size": VOCABULARY + 8}, {"num_key_value_heads": 1}])
def test_weights_of_other_shapes_than_the_config_says_are_named(tmp_path: Path, changed: dict[str, int]) -> None:
    config = make_model_folder(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with pytest.raises(ValueError, match=r"weights of other shapes .*, such as .*weight \[\d+, 32\] instead of"):
        HuggingFaceCausalLM(str(tmp_path))


def test_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, vocab_size=8)
    with pytest.raises(ValueError, match="embeddings for only 8"):
        HuggingFaceCausalLM(str(folder), weights="random")
