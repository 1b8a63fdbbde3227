"""How the tokens of an answer are chosen, and how they reach a streamer."""

from typing import Any

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from components.interfaces import TEXT_ONLY, DecodingSettings, NewTokens
from components.language.answer_tokens import AnswerRecorder, TokenChooser
from components.language.causal import HuggingFaceCausalLM
from tests.components.tiny_language import make_model_folder, make_text, make_visual, row_of

PROMPTS = [(1, "what colour ?", None), (TEXT_ONLY, "say hello and more", None), (0, "?", None), (0, "how many ?", None)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCausalLM:
    return HuggingFaceCausalLM(str(make_model_folder(tmp_path_factory.mktemp("qwen2"), "qwen2"))).eval()


def choose(logits: torch.Tensor, **settings: Any) -> list[int]:
    return TokenChooser(DecodingSettings(**settings), len(logits)).choose(logits).tolist()


def test_the_most_likely_token_is_chosen_unless_sampling_is_asked_for() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    assert choose(logits) == [1, 0]
    assert choose(logits, temperature=2.0, top_k=1) == [1, 0]
    assert choose(logits, temperature=2.0, top_p=0.01) == [1, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 4},
        {"temperature": 1.5, "top_p": 0.6},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.7},
    ],
)
def test_sampled_tokens_have_the_distribution_of_transformers(settings: dict[str, Any]) -> None:
    num_draws = 20_000
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    expected = TemperatureLogitsWarper(settings["temperature"])(None, logits)
    if "top_k" in settings:
        expected = TopKLogitsWarper(settings["top_k"])(None, expected)
    if "top_p" in settings:
        expected = TopPLogitsWarper(settings["top_p"])(None, expected)
    chosen = choose(logits.expand(num_draws, -1), seed=tuple(range(num_draws)), **settings)
    shares = torch.tensor(chosen).bincount(minlength=12) / num_draws
    torch.testing.assert_close(shares, expected.softmax(dim=-1)[0], atol=0.015, rtol=0)
    assert not shares[~expected.isfinite()[0]].any()


def test_equal_seeds_give_equal_answers_in_any_batch(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual(), make_text(model, PROMPTS)
    state = model.prefill(visual, text)
    seeds = (5, 6, 7, 8)
    settings = DecodingSettings(8, temperature=3.0, seed=seeds)
    together = model.decode(state, settings).token_ids
    assert together == model.decode(state, settings).token_ids
    alone = [
        model.decode(model.prefill(visual, row_of(text, row)), DecodingSettings(8, temperature=3.0, seed=seed))
        for row, seed in enumerate(seeds)
    ]
    assert [answer.token_ids[0] for answer in alone] == together
    assert model.decode(state, DecodingSettings(8, temperature=3.0, seed=9)).token_ids != together


def test_an_answer_ends_at_further_stop_ids(model: HuggingFaceCausalLM) -> None:
    state = model.prefill(make_visual(), make_text(model, PROMPTS[:1]))
    [ids] = model.decode(state, DecodingSettings(8)).token_ids
    [stopped] = model.decode(state, DecodingSettings(8, stop_ids=(ids[3],))).token_ids
    assert stopped == ids[: ids.index(ids[3])]


def test_a_streamer_gets_every_token_and_the_text_of_the_answers(model: HuggingFaceCausalLM) -> None:
    state = model.prefill(make_visual(), make_text(model, PROMPTS))
    got: list[NewTokens] = []
    settings = DecodingSettings(12, temperature=2.0, seed=(1, 2, 3, 4), stop_ids=tuple(range(0, 272, 9)))
    answers = model.decode(state, settings, got.append)
    assert len({len(ids) for ids in answers.token_ids}) > 1
    for row, (ids, text) in enumerate(zip(answers.token_ids, answers.texts, strict=True)):
        assert [each.ids[row] for each in got if each.ids[row] is not None] == ids
        assert "".join(each.texts[row] for each in got) == text


def test_text_is_streamed_when_its_letters_are_complete(model: HuggingFaceCausalLM) -> None:
    got: list[NewTokens] = []
    words = " où est-il ?  là "
    ids = model.tokenizer(words, add_special_tokens=False)["input_ids"]
    recorder = AnswerRecorder(model.chat, DecodingSettings(len(ids)), 1, got.append)
    for token in ids:
        recorder.add([token])
    assert recorder.has_finished
    assert "".join(each.texts[0] for each in got) == words.strip() == recorder.texts()[0]
    assert not any("\ufffd" in each.texts[0] for each in got)
    assert sum(bool(each.texts[0]) for each in got) > 8  # not all at the end


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"top_p is 0; expected more than 0, at most 1$"):
        DecodingSettings(top_p=0)
    with pytest.raises(ValueError, match=r"temperature is -1; .*; top_k is -2;"):
        DecodingSettings(temperature=-1, top_k=-2)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        DecodingSettings(0)
    with pytest.raises(ValueError, match="2 seeds for 3 conversations"):
        choose(torch.zeros(3, 4), seed=(1, 2))


@pytest.mark.parametrize("temperature", [1e-3, 1e-39, 1e-300])
def test_the_lower_the_temperature_the_more_is_the_likely_token_chosen(temperature: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [-5.0, -9.0, -9.0]])
    assert choose(logits, temperature=temperature) == [1, 0]
