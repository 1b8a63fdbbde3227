"""A state of the language model: read once, answered and scored from any number of times, with the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    DecodingSettings,
    LanguageState,
    TextInputs,
    VisualTokens,
)
from components.language.causal import HuggingFaceCausalLM
from components.language.chat_text import PlainTurn
from components.language.splice import splice
from components.language.text_limits import TextLimitError
from tests.components.tiny_language import RECURRENT, make_model_folder, make_text, make_visual, row_of

WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {"query_pre_attn_scalar": 8, **WINDOW},
    "gemma3_text": WINDOW,
    "bloom": {"n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
}
QUESTIONS = ["what colour ?", "how many ?", "say hello and more", "?"]
PROMPTS = [(0, question, None) for question in QUESTIONS] + [(1, QUESTIONS[0], None), (TEXT_ONLY, "say hello", None)]
OPTIONS = [["red", "blue circle at the end", ""]] * len(PROMPTS)
VIDEOS = (40, 17)


def make_model(folder: Path, model_type: str) -> HuggingFaceCausalLM:
    return HuggingFaceCausalLM(str(make_model_folder(folder, model_type, **(KINDS | RECURRENT)[model_type]))).eval()


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCausalLM:
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCausalLM:
    return make_model(tmp_path_factory.mktemp("llama"), "llama")


def make_inputs(model: HuggingFaceCausalLM) -> tuple[VisualTokens, TextInputs]:
    return make_visual(VIDEOS, width=model.dim), make_text(model, PROMPTS, padding=2)


def answers_of_transformers(
    model: HuggingFaceCausalLM, visual: VisualTokens, text: TextInputs, **settings: Any
) -> list[str]:
    """What the generation loop of transformers answers."""
    inputs = splice(visual, text, model.embed(text.input_ids))
    padding = (~inputs.mask).sum(dim=1).tolist()  # which this loop needs on the left
    embeddings = torch.stack([row.roll(shift, 0) for row, shift in zip(inputs.embeddings, padding, strict=True)])
    mask = torch.stack([row.roll(shift) for row, shift in zip(inputs.mask, padding, strict=True)])
    config = GenerationConfig(eos_token_id=model.chat.stop_ids, pad_token_id=model.chat.pad_id, **settings)
    ids = model.model.generate(inputs_embeds=embeddings, attention_mask=mask.long(), generation_config=config)
    return [model.chat.decode(row) for row in ids.tolist()]


def computed_positions(model: HuggingFaceCausalLM) -> list[tuple[int, int]]:
    """Rows and columns of every later call of the network."""
    calls: list[tuple[int, int]] = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    return calls


def assert_same_state(got: LanguageState, expected: LanguageState) -> None:
    assert got.lengths == expected.lengths
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=1e-5)


def rows_of(visual: VisualTokens, text: TextInputs) -> list[tuple[VisualTokens, TextInputs]]:
    return [(visual, row_of(text, row)) for row in range(len(text.input_ids))]


def test_greedy_answers_are_those_of_transformers(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    answers = model.generate(visual, text, 12)
    assert len(set(answers)) > 2
    assert answers == answers_of_transformers(model, visual, text, max_new_tokens=12, do_sample=False)


@pytest.mark.parametrize("model_type", RECURRENT)
def test_models_with_recurrent_layers_answer_as_in_transformers(tmp_path: Path, model_type: str) -> None:
    model = make_model(tmp_path, model_type)
    visual, text = make_inputs(model)
    expected = answers_of_transformers(model, visual, text, max_new_tokens=12, do_sample=False)
    assert model.generate(visual, text, 12) == expected


def test_a_shared_beginning_changes_no_logits(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    together = model.prefill(visual, text)
    for row, (seen, alone) in enumerate(rows_of(visual, text)):
        state = model.prefill(seen, alone)
        assert state.lengths == together.lengths[row : row + 1]
        torch.testing.assert_close(together.logits[row : row + 1], state.logits, atol=1e-5, rtol=1e-5)


def test_option_scores_are_the_losses_of_whole_conversations(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    for (video, question, _), options, scores in zip(
        PROMPTS, OPTIONS, model.score_options(visual, text, OPTIONS), strict=True
    ):
        loss = model(visual, make_text(model, [(video, question, option) for option in options]))
        torch.testing.assert_close(scores, -loss.nll / loss.num_tokens, atol=1e-5, rtol=1e-5)


def test_ten_questions_with_four_options_read_the_video_once(tmp_path: Path) -> None:
    model = make_model(tmp_path, "llama")
    visual = make_visual((200,))
    text = make_text(model, [(0, " ".join(["what"] * (1 + number % 3)), None) for number in range(10)])
    options = [["red", "blue", "green square", "no"]] * 10
    longest = int(text.text_mask.sum(dim=1).max())
    calls = computed_positions(model)
    model.score_options(visual, text, options)
    assert calls[0][0] == 1
    assert 200 <= calls[0][1] < 200 + longest
    rests = calls[1:]
    assert [rows for rows, _ in rests] == [10] + [4] * 10
    assert all(columns < longest for _, columns in rests)


def test_what_is_shared_is_found_in_the_tokens(tmp_path: Path) -> None:
    model = make_model(tmp_path, "llama")
    visual = make_visual((30, 30))
    calls = computed_positions(model)
    rows_in_first_call = {
        "one video": [(0, "red ?", None), (0, "blue ?", None)],
        "other videos": [(0, "red ?", None), (1, "red ?", None)],
        "two of each": [(0, "red ?", None), (1, "red ?", None), (0, "blue ?", None), (1, "blue ?", None)],
        "text alone": [(TEXT_ONLY, "red ?", None), (TEXT_ONLY, "red ?", None)],
    }
    first = {}
    for name, rows in rows_in_first_call.items():
        calls.clear()
        model.prefill(visual, make_text(model, rows))
        first[name] = calls[0][0]
    assert first == {"one video": 1, "other videos": 2, "two of each": 2, "text alone": 2}
    calls.clear()
    # The same video, but rows of visual tokens of their own, as a bridge that reads the questions gives them.
    own_rows = VisualTokens(visual.tokens, visual.mask, torch.tensor([[0], [1]]))
    model.prefill(own_rows, make_text(model, rows_in_first_call["one video"]))
    assert [rows for rows, _ in calls] == [2]


def test_reading_in_parts_equals_reading_at_once(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    whole = model.prefill(visual, text)
    lengths = text.text_mask.sum(dim=1)
    cut = torch.arange(text.input_ids.shape[1]) < (lengths - 1 - torch.arange(len(lengths)) % 3)[:, None]
    first = model.prefill(visual, text._replace(text_mask=text.text_mask & cut))
    rest_mask = text.text_mask & ~cut
    order = rest_mask.long().argsort(dim=1, descending=True, stable=True)
    rest = TextInputs(
        text.input_ids.gather(1, order),
        rest_mask.gather(1, order),
        text.labels,
        torch.full_like(text.video_index, TEXT_ONLY),
    )
    assert_same_state(model.extend(first, rest), whole)


def test_looking_changes_nothing(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    state = model.prefill(visual, text)
    settings = DecodingSettings(max_new_tokens=5)
    scores, answers = model.score(state, OPTIONS), model.decode(state, settings)
    more = make_text(model, [(TEXT_ONLY, "and then ?", None)] * len(PROMPTS))
    extended = model.extend(state, more)
    model.decode(answers.state, settings)
    torch.testing.assert_close(model.score(state, OPTIONS), scores, atol=0, rtol=0)
    assert model.decode(state, settings).texts == answers.texts
    assert_same_state(model.extend(state, more), extended)


@pytest.mark.parametrize("model_type", RECURRENT)
def test_looking_at_recurrent_layers_changes_nothing(tmp_path: Path, model_type: str) -> None:
    model = make_model(tmp_path, model_type)
    visual, text = make_visual(VIDEOS), make_text(model, PROMPTS[:1])
    state = model.prefill(visual, text)
    settings = DecodingSettings(max_new_tokens=5)
    scores, answers = model.score(state, OPTIONS[:1]), model.decode(state, settings)
    torch.testing.assert_close(model.score(state, OPTIONS[:1]), scores, atol=0, rtol=0)
    assert model.decode(state, settings).texts == answers.texts
    with pytest.raises(ValueError, match="read and answer one conversation at a time"):
        model.decode(model.prefill(visual, make_text(model, PROMPTS)), settings)


def read_again(model: HuggingFaceCausalLM, text: TextInputs, row: int, ids: list[int]) -> TextInputs:
    """A prompt followed by an answer."""
    prompt = row_of(text, row)
    whole = torch.cat([prompt.input_ids, torch.tensor([ids], dtype=torch.long)], dim=1)
    return TextInputs(whole, torch.ones_like(whole).bool(), whole, prompt.video_index)


def test_the_state_after_an_answer_has_read_it(model: HuggingFaceCausalLM) -> None:
    visual, text = make_inputs(model)
    settings = DecodingSettings(9, temperature=5.0, seed=tuple(range(len(PROMPTS))), stop_ids=tuple(range(0, 272, 6)))
    answers = model.decode(model.prefill(visual, text), settings)
    assert len({len(ids) for ids in answers.token_ids}) > 1
    more = make_text(model, [(TEXT_ONLY, "and then ?" + " red" * row, None) for row in range(len(PROMPTS))])
    continued = model.extend(answers.state, more)
    for row, ids in enumerate(answers.token_ids):
        state = model.prefill(visual, read_again(model, text, row, ids))
        assert answers.state.lengths[row : row + 1] == state.lengths
        torch.testing.assert_close(answers.state.logits[row : row + 1], state.logits, atol=1e-5, rtol=1e-5)
        alone = model.extend(state, row_of(more, row))
        torch.testing.assert_close(continued.logits[row : row + 1], alone.logits, atol=1e-5, rtol=1e-5)


def test_a_second_turn_is_read_as_in_training(llama: HuggingFaceCausalLM) -> None:
    visual = make_visual((5,))
    turns = [("user", "<video>\nwhat colour ?"), ("assistant", "red circle"), ("user", "how many ?")]
    state = llama.prefill(visual, llama.prompts(["what colour ?"]))
    answer_ids = torch.tensor([llama.chat.answer_ids("red circle")[:-1]])
    none = torch.tensor([[TEXT_ONLY]])
    state = llama.extend(state, TextInputs(answer_ids, torch.ones_like(answer_ids).bool(), answer_ids, none))
    state = llama.extend(state, llama.next_prompts([turns]))
    ids = torch.tensor([llama.chat.prompt_ids([PlainTurn(*turn) for turn in turns])])
    whole = TextInputs(ids, torch.ones_like(ids).bool(), ids, torch.tensor([[0]]))
    assert_same_state(state, llama.prefill(visual, whole))


def test_more_visual_tokens_can_be_read_into_a_state(llama: HuggingFaceCausalLM) -> None:
    visual = make_visual((3, 5))
    text = make_text(llama, [(0, "what colour ?", None)])
    placeholder = TextInputs(
        torch.tensor([[VIDEO_PLACEHOLDER]]),
        torch.ones(1, 1).bool(),
        torch.full((1, 1), IGNORED_LABEL),
        torch.tensor([[1]]),
    )
    state = llama.extend(llama.prefill(visual, text), placeholder, visual)
    inputs = splice(visual, text, llama.embed(text.input_ids))
    joined = torch.cat([inputs.embeddings, visual.tokens[1:, visual.mask[1]]], dim=1)
    expected = llama.model(inputs_embeds=joined).logits[:, -1]
    assert state.lengths == (joined.shape[1],)
    torch.testing.assert_close(state.logits, expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_continue_is_refused(tmp_path: Path) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, max_position_embeddings=32))).eval()
    visual, text = make_visual((3, 5)), make_text(model, [(0, "?", None), (1, "what colour ?", None)])
    state = model.prefill(visual, text)
    room = 32 - max(state.lengths)
    model.decode(state, DecodingSettings(max_new_tokens=room))
    with pytest.raises(TextLimitError, match=f"up to {room + 1} tokens of an answer"):
        model.decode(state, DecodingSettings(max_new_tokens=room + 1))
    with pytest.raises(TextLimitError, match="max_position_embeddings"):
        model.prefill(visual, text, room=room + 1)
    with pytest.raises(TextLimitError, match="max_position_embeddings"):
        model.score(state, [["red"], ["red " * room]])
    with pytest.raises(ValueError, match="2 conversations continue with"):
        model.extend(state, make_text(model, [(TEXT_ONLY, "?", None)]))
    with pytest.raises(ValueError, match="2 conversations with"):
        model.score(state, [["red"]])


def test_no_question_at_all_is_refused_in_words(llama: HuggingFaceCausalLM) -> None:
    for ask in (llama.prompts, llama.next_prompts):
        with pytest.raises(ValueError, match="there is no question; give at least one"):
            ask([])
    with pytest.raises(ValueError, match="turns that end with a question after an answer"):
        llama.next_prompts([[]])
