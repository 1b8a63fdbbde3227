"""Training, generation and scoring use the same ids, for common templates and tokenizers."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.language.chat import ChatFormat, EncodedTurns, chat_format
from components.language.chat_template import VIDEO_MARK, ChatError, ChatSettings
from tests.components.chat_templates import CHATML, NO_GENERATION_PROMPT, QWEN3
from tests.components.chat_tokenizers import (
    ALL,
    CHANGED_PAST,
    UNCHANGED_PAST,
    WITHOUT_SYSTEM_TURN,
    byte_level,
    qwen,
)


class Turn(NamedTuple):
    role: str
    content: str


def turns_of(*said: str, system: str | None = None) -> list[Turn]:
    """Question, answer, question, ...; the first question is about a video."""
    first = [] if system is None else [Turn("system", system)]
    marked = [f"{VIDEO_MARK}\n{said[0]}", *said[1:]]
    return [*first, *(Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(marked))]


FRAGMENTS = [
    "red", "blue circle", "3", "assistant", "question", "answer", "ASSISTANT:", "</s>", "<s>", "<|im_end|>", "[/INST]",
    "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", ".", ",", " ", "  ", "\n", "\n\n", "\t", "'s", "é", "🙂",
    "{{ m }}", "<|User|>", "/no_think",
]  # fmt: skip
ANSWERS = st.lists(st.sampled_from([*FRAGMENTS, VIDEO_MARK]), min_size=1, max_size=6).map("".join)
QUESTIONS = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    """One to three questions and answers with unusual characters, with or without a system turn."""
    said: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        said += [draw(QUESTIONS), draw(ANSWERS.filter(str.strip))]
    return turns_of(*said, system=draw(st.none() | QUESTIONS.filter(str.strip)))


def format_of(name: str) -> ChatFormat:
    """The format of a tokenizer; system text goes into the first question if the template has no system turn."""
    system_turns = ChatSettings(system_turns="first_question") if name in WITHOUT_SYSTEM_TURN else ChatSettings()
    return chat_format(tokenizer_of(name), system_turns)


@functools.cache
def tokenizer_of(name: str) -> Any:
    return ALL[name]()


def labelled_runs(encoded: EncodedTurns) -> list[tuple[int, list[int]]]:
    """Start and ids of every sequence of labelled tokens."""
    runs: list[tuple[int, list[int]]] = []
    before = IGNORED_LABEL
    for place, label in enumerate(encoded.labels.tolist()):
        if label != IGNORED_LABEL:
            if before == IGNORED_LABEL:
                runs.append((place, []))
            runs[-1][1].append(label)
        before = label
    return runs


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30, deadline=None)
@given(turns=conversations())
def test_every_prompt_is_what_training_saw_and_the_answers_and_their_ends_are_labelled(
    name: str, turns: list[Turn]
) -> None:
    chat = format_of(name)
    encoded = chat.encode(turns)
    runs = labelled_runs(encoded)
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    assert len(runs) == len(answers)
    ids = encoded.input_ids.tolist()
    assert ids.count(VIDEO_PLACEHOLDER) == 1
    for (start, labels), answer in zip(runs, answers, strict=True):
        assert labels == ids[start : start + len(labels)]
        assert chat.prompt_ids(turns[:answer]) == ids[:start]
        assert [label in chat.stop_ids for label in labels] == [False] * (len(labels) - 1) + [True]
        assert chat.decode(labels) == turns[answer].content.strip()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30, deadline=None)
@given(turns=conversations())
def test_prompt_answer_and_next_prompt_are_the_ids_of_the_whole_conversation(name: str, turns: list[Turn]) -> None:
    chat = format_of(name)
    encoded = chat.encode(turns)
    runs = labelled_runs(encoded)
    questions = [place for place, turn in enumerate(turns) if turn.role == "user"]
    read = chat.prompt_ids(turns[: questions[0] + 1])
    for (_, labels), question in zip(runs, questions[1:], strict=False):
        read += labels[:-1]  # an answer is read without the token that ends it
        read += chat.next_prompt_ids(turns[: question + 1])
    assert read + runs[-1][1] == encoded.input_ids[: runs[-1][0] + len(runs[-1][1])].tolist()


def test_the_next_prompt_needs_a_question_after_an_answer() -> None:
    chat = format_of("llama-2")
    for turns in (turns_of("Which colour?"), turns_of("Which colour?", "red")):
        with pytest.raises(ChatError, match="a question after an answer"):
            chat.next_prompt_ids(turns)


@pytest.mark.parametrize("name", ALL)
def test_an_answer_without_words_can_be_followed_by_a_question(name: str) -> None:
    chat = format_of(name)
    after_none, after_red = (
        chat.next_prompt_ids(turns_of("Which colour?", answer, "Are you sure?")) for answer in ("", "red")
    )
    assert after_none == after_red


@pytest.mark.parametrize("name", ALL)
def test_a_question_is_asked_with_the_ids_that_training_saw(name: str) -> None:
    chat = format_of(name)
    encoded = chat.encode(turns_of("Which colour?", "red"))
    start, labels = labelled_runs(encoded)[0]
    for question in ("Which colour?", f"{VIDEO_MARK}\nWhich colour?"):
        assert chat.prompt_ids(question) == encoded.input_ids[:start].tolist()
    assert chat.answer_ids("red") == labels


def reference_ids(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """Ids of the complete rendered text; text before and after a video mark or the first token is split."""
    text = tokenizer.apply_chat_template([turn._asdict() for turn in turns], tokenize=False)
    ids = []
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        ids, text = [tokenizer.bos_token_id], text[len(tokenizer.bos_token) :]
    for place, part in enumerate(text.split(VIDEO_MARK)):
        ids += [VIDEO_PLACEHOLDER] * bool(place) + tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("system", [None, "Answer briefly."])
@pytest.mark.parametrize("said", [("Which?", "red"), ("Which?", "The answer is red.", "How many?", "3 of them")])
@pytest.mark.parametrize("name", UNCHANGED_PAST)
def test_clean_text_has_the_ids_of_the_rendered_conversation(name: str, said: tuple[str, ...], system: str) -> None:
    turns = turns_of(*said, system=system)
    assert format_of(name).encode(turns).input_ids.tolist() == reference_ids(tokenizer_of(name), turns)


def text_of(name: str, turns: Sequence[Turn]) -> str:
    ids = format_of(name).encode(turns).input_ids
    return str(tokenizer_of(name).decode(ids[ids != VIDEO_PLACEHOLDER]))


def test_a_think_block_that_always_stands_before_an_answer_belongs_to_every_prompt() -> None:
    for name in ("qwen3", "qwen3.5"):
        assert text_of(name, turns_of("Which?", "red", "How many?", "one")) == (
            "<|im_start|>user\n\nWhich?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nred<|im_end|>\n"
            "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\none<|im_end|>\n"
        )


def test_a_system_text_in_the_last_question_is_in_every_question_that_is_asked() -> None:
    text = text_of("mistral-0.3", turns_of("Which?", "red", "How many?", "one", system="Be brief."))
    assert [part.count("Be brief.") for part in text.split("[INST]")] == [0, 1, 1]


def test_both_ends_of_answers_stop_a_generation() -> None:
    chat, tokenizer = format_of("gpt-oss"), tokenizer_of("gpt-oss")
    runs = labelled_runs(chat.encode(turns_of("Which?", "red", "How many?", "one")))
    ends = [tokenizer.convert_ids_to_tokens(labels[-1]) for _, labels in runs]
    assert ends == ["<|end|>", "<|return|>"]
    assert set(tokenizer.convert_tokens_to_ids(ends)) <= set(chat.stop_ids)


@pytest.mark.parametrize("name", WITHOUT_SYSTEM_TURN)
def test_a_system_turn_that_the_template_refuses_goes_in_front_of_the_first_question_if_asked_for(name: str) -> None:
    turns = turns_of("Which?", "red", system="Be brief.")
    with pytest.raises(
        ChatError, match=r"cannot render the turns system, user: .*set system_turns to 'first_question'"
    ):
        chat_format(tokenizer_of(name)).encode(turns)
    merged = [Turn("user", f"Be brief.\n\n{VIDEO_MARK}\nWhich?"), Turn("assistant", "red")]
    assert format_of(name).encode(turns).input_ids.equal(chat_format(tokenizer_of(name)).encode(merged).input_ids)


def test_a_template_that_drops_the_system_turn_is_told_what_to_set() -> None:
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(ChatError, match=r"does not show the system turn.*system_turns to 'first_question'"):
        ChatFormat(qwen(deaf)).encode(turns_of("Which?", "red", system="Be brief."))


@pytest.mark.parametrize("answer", ["", " ", "\n", "<|im_end|>", "<|im_start|>assistant\nno", VIDEO_MARK])
@pytest.mark.parametrize("name", ["qwen2.5", "vicuna", "llama-3", "qwen3"])
def test_options_that_are_no_plain_words_have_their_ids_and_one_end(name: str, answer: str) -> None:
    chat = format_of(name)
    *words, end = chat.answer_ids(answer)
    assert end == chat.end_of_turn_id
    assert not set(words) & {*chat.stop_ids, VIDEO_PLACEHOLDER}
    assert chat.decode([*words, end]) == answer.strip()


def test_think_tokens_in_an_answer_stay_tokens_where_the_template_shows_them() -> None:
    chat = ChatFormat(byte_level(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", plain=("<think>", "</think>")))
    [(_, labels)] = labelled_runs(chat.encode(turns_of("Which?", "<think>so</think>red")))
    assert chat.tokenizer.convert_ids_to_tokens(labels)[0] == "<think>"


def test_an_answer_that_the_template_rewrites_is_refused() -> None:
    with pytest.raises(ChatError, match=r"does not show the answer '<think>so</think>red' as it is"):
        format_of("qwen3").encode(turns_of("Which?", "<think>so</think>red"))


def test_a_noncharacter_in_a_text_is_refused() -> None:
    with pytest.raises(ChatError, match="turn 1 holds a noncharacter"):
        format_of("qwen2").encode(turns_of("Which?", "red\ufdd0"))


REFUSED: dict[str, tuple[str, str]] = {
    "no request": (NO_GENERATION_PROMPT, r"ignores add_generation_prompt: it writes '<\|im_start\|>assistant\\n'"),
    "depends on the answer": (
        CHATML.replace(
            "m.role + '\n' + m.content", "m.role + ('\nLong: ' if m.content|length > 12 else '\n') + m.content"
        ),
        r"before one answer and .* before another",
    ),
    "prompt of its own": (
        CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>' }}{% endif"),
        "the second must begin with the first",
    ),
    "forgets": (
        CHATML.replace("in messages %}", "in messages if m.role == 'user' or m == messages[-1] %}"),
        "leaves earlier answers out",
    ),
    "changes": (CHATML.replace("m.content", "m.content|upper"), "does not show the answer 'answer' as it is"),
    "cuts": (CHATML.replace("m.content", "m.content[3:]"), "does not show the answer 'answer' as it is"),
    "hides the question": (
        CHATML.replace("+ m.content +", "+ (m.content if m.role == 'assistant' else '') +"),
        "does not show the question",
    ),
    "no end": (CHATML.replace("<|im_end|>", ""), "ends an assistant's turn without a special token"),
    "no end but the last": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' + m.content + '<|im_start|>' }}"
        "{% else %}{{ m.content + ('<|im_end|>' if loop.last else ' ') }}{% endif %}{% endfor %}",
        "without a special token where another question follows",
    ),
    "raises": ("{{ raise_exception('never') }}", "cannot render the turns user: never"),
    "no Jinja": ("{% for m in messages %}", "cannot render the turns user"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_from_which_no_prompt_can_be_made_is_refused_when_built(name: str) -> None:
    template, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ChatFormat(byte_level(template, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))


def test_a_changed_template_has_another_format() -> None:
    tokenizer = qwen(CHATML)
    first = chat_format(tokenizer)
    assert chat_format(tokenizer) is first
    tokenizer.chat_template = QWEN3
    assert chat_format(tokenizer).prompt_ids("x") != first.prompt_ids("x")


@pytest.mark.parametrize("name", CHANGED_PAST)
def test_settings_that_a_caller_left_on_the_tokenizer_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, tokenizer = format_of(name), tokenizer_of(name)
    turns = turns_of("Which of them was it, and when?", "red")
    before = chat.encode(turns).input_ids
    tokenizer("x", truncation=True, max_length=2, split_special_tokens=True)
    assert chat.encode(turns).input_ids.equal(before)
