from pathlib import Path

import pytest
import torch

from components.interfaces import TEXT_ONLY, VIDEO_PLACEHOLDER, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.question_text import before_answer
from tests.components.tiny_language import make_model_folder, make_text, make_visual, row_of
from tests.fixtures_data import WORDS, make_tiny_tokenizer

PROMPTS = [(1, "what colour ?", None), (TEXT_ONLY, "say hello and more", None), (0, "?", None)]
OPTIONS = [["red", "blue circle at the end", ""], ["hello"], ["one two", "three"]]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceCausalLM:
    folder = make_model_folder(tmp_path_factory.mktemp(request.param), request.param)
    return HuggingFaceCausalLM(str(folder)).eval()


def overfit(model: HuggingFaceCausalLM, answers: list[str]) -> None:
    """Train the model on one answer per conversation."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    text = make_text(
        model, [(video, question, answer) for (video, question, _), answer in zip(PROMPTS, answers, strict=True)]
    )
    for _ in range(40):
        optimizer.zero_grad()
        model(make_visual(), text).nll.sum().backward()
        optimizer.step()


def test_trained_answers_are_generated_and_end_at_the_end_of_the_turn(tmp_path: Path) -> None:
    model = HuggingFaceCausalLM(str(make_model_folder(tmp_path, initializer_range=0.02)))
    answers = ["red circle", "hello", "one two three"]
    overfit(model, answers)
    assert model.generate(make_visual(), make_text(model, PROMPTS), max_new_tokens=8) == answers
    assert model.generate(make_visual(), make_text(model, PROMPTS), max_new_tokens=1) == ["red", "hello", "one"]
    assert all(module.training for module in model.modules())


def test_generating_in_a_batch_equals_one_by_one(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual(), make_text(model, PROMPTS, padding=2)
    batched = model.generate(visual, text, max_new_tokens=6)
    assert len(set(batched)) > 1
    assert batched == [model.generate(visual, row_of(text, row), max_new_tokens=6)[0] for row in range(3)]


def test_generating_reads_nothing_from_the_first_labelled_token_on(model: HuggingFaceCausalLM) -> None:
    visual = make_visual()
    answered = make_text(model, [(video, question, "blue star") for video, question, _ in PROMPTS])
    assert model.generate(visual, answered, 5) == model.generate(visual, make_text(model, PROMPTS), 5)


def test_prompts_are_what_training_conversations_begin_with(model: HuggingFaceCausalLM) -> None:
    questions = ["what colour ?", "say hello and more", "?"]
    prompts = model.prompts(questions)
    expected = make_text(model, [(0, question, "red") for question in questions])
    for row in range(3):
        prompt, answered = row_of(prompts, row), row_of(expected, row)
        length = prompt.input_ids.shape[1]
        assert prompt.input_ids.tolist() == answered.input_ids[:, :length].tolist()
        assert before_answer(answered).sum() == length
    assert prompts.video_index.tolist() == [[0], [0], [0]]
    visual = make_visual((3,))
    assert model.generate(visual, prompts, 4) == model.generate(visual, expected, 4)


def test_prompt_keeps_the_place_that_the_question_gives_the_visual_tokens(model: HuggingFaceCausalLM) -> None:
    front, behind = (row.tolist() for row in model.prompts(["red ?", "red ?<video>"]).input_ids)
    assert front.index(VIDEO_PLACEHOLDER) < behind.index(VIDEO_PLACEHOLDER)
    with pytest.raises(ValueError, match="occurs 2 times; visual tokens need exactly one"):
        model.prompts(["<video>red ?<video>"])


def test_rows_of_their_own_are_seen_by_their_conversations(model: HuggingFaceCausalLM) -> None:
    text = make_text(model, [(1, "what colour ?", "red"), (TEXT_ONLY, "say hello", "hello"), (1, "?", "blue")])
    by_video = make_visual((3, 5))
    rows = torch.tensor([[1], [TEXT_ONLY], [0]])
    # The same tokens, stored as rows of the conversations 2 and 0, the videos' order being of no matter.
    own = VisualTokens(by_video.tokens[[1, 1]], by_video.mask[[1, 1]], rows)
    torch.testing.assert_close(model(own, text), model(by_video, text))
    assert model.generate(own, text, 4) == model.generate(by_video, text, 4)
    torch.testing.assert_close(model.score_options(own, text, OPTIONS), model.score_options(by_video, text, OPTIONS))


def test_generation_config_of_the_checkpoint_does_not_change_greedy_answers(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    plain = HuggingFaceCausalLM(str(folder)).eval()
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 5.0, "repetition_penalty": 9.0}')
    sampling = HuggingFaceCausalLM(str(folder)).eval()
    visual, text = make_visual(), make_text(plain, PROMPTS)
    assert sampling.generate(visual, text, 6) == plain.generate(visual, text, 6)


def test_option_scores_equal_the_loss_with_that_answer_put_in(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual(), make_text(model, PROMPTS, padding=1)
    scores = model.score_options(visual, text, OPTIONS)
    for (video, question, _), options, row in zip(PROMPTS, OPTIONS, scores, strict=True):
        loss = model(visual, make_text(model, [(video, question, option) for option in options]))
        torch.testing.assert_close(row, -loss.nll / loss.num_tokens, atol=1e-5, rtol=1e-5)


def test_option_scores_do_not_depend_on_the_given_answer_or_on_training_mode(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, attention_dropout=0.5)
    model = HuggingFaceCausalLM(str(folder), gradient_checkpointing=True).train()
    visual = make_visual()
    answered = make_text(model, [(video, question, "blue") for video, question, _ in PROMPTS])
    first = model.score_options(visual, answered, OPTIONS)
    second = model.eval().score_options(visual, make_text(model, PROMPTS), OPTIONS)
    torch.testing.assert_close(first, second)


def test_missing_options_are_refused(model: HuggingFaceCausalLM) -> None:
    visual, text = make_visual(), make_text(model, PROMPTS)
    for options in ([["red"], ["blue"]], [["red"], [], ["blue"]]):
        with pytest.raises(ValueError, match="3 conversations with"):
            model.score_options(visual, text, options)


def test_conversation_without_a_prompt_is_refused(model: HuggingFaceCausalLM) -> None:
    text = make_text(model, PROMPTS)
    text.labels[1, 1] = 5
    with pytest.raises(ValueError, match=r"\{1: 1\}"):
        model.generate(make_visual(), text, 2)


def test_answer_ids_hold_the_words_and_the_end_of_the_turn(model: HuggingFaceCausalLM) -> None:
    ids = model.chat.answer_ids("red circle")
    assert ids == [*model.tokenizer("red circle")["input_ids"], model.chat.end_of_turn_id]
    assert model.chat.decode([*ids, *model.tokenizer("red")["input_ids"]]) == "red circle"


def with_template(folder: Path, template: str | None) -> str:
    make_model_folder(folder)
    (folder / "chat_template.jinja").unlink()
    return str(make_tiny_tokenizer(folder, WORDS, template))


def test_first_special_token_after_the_answer_ends_the_turn(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|><pad>{% endfor %}"
        "{{ '<|im_start|>' if add_generation_prompt }}"
    )
    model = HuggingFaceCausalLM(with_template(tmp_path, template))
    assert model.tokenizer.convert_ids_to_tokens(model.chat.end_of_turn_id) == "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "without a special token"),
        (
            "{% for m in messages %}{{ m['content'] | upper }}<|im_end|>{% endfor %}",
            "does not show the answer",
        ),
        (
            "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}{{ 'what' if add_generation_prompt }}",
            "must begin with",
        ),
    ],
)
def test_chat_template_that_cannot_mark_answers_is_refused(tmp_path: Path, template: str | None, message: str) -> None:
    folder = with_template(tmp_path, template)
    with pytest.raises(ValueError, match=message):
        HuggingFaceCausalLM(folder)


def test_tokenizer_that_transformers_misreads_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, "qwen2")
    make_tiny_tokenizer(folder)  # word level, but read as byte-level BPE for this model type
    with pytest.raises(ValueError, match="loaded as Qwen2Tokenizer, reads 'answer' as 'a'"):
        HuggingFaceCausalLM(str(folder))
