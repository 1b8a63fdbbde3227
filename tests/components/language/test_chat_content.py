"""Chat templates that take lists of parts, depend on words in turns, or have control tokens not marked as special."""

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components.language.chat import ChatFormat
from components.language.chat_template import ChatSettings
from tests.components.chat_templates import CHATML
from tests.components.chat_tokenizers import byte_level, llama, qwen
from tests.components.language.test_chat import Turn, labelled_runs, turns_of

# The prompt depends on a word in the system text, as in SmolLM3.
MODES = (
    "{% set silent = messages[0].role == 'system' and '/no_think' in messages[0].content %}"
    "{% set block = '<think>\n\n</think>\n' if silent else '' %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + (block if m.role == 'assistant' else '') + m.content.replace('/no_think', '') "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + block }}{% endif %}"
)
# Tokens of DeepSeek-V3 and EXAONE, which their tokenizers do not mark as special; the latter's are put together.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content + eos_token }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)
EXAONE = (
    "{% for m in messages %}{{ '[|' + m.role + '|]' + m.content + ('\n' if m.role == 'user' else eos_token) }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text + (eos_token if m.role == 'assistant' else ' ') }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAVA_OF_TEXTS = LLAVA.replace(
    "part in m.content | selectattr('type', 'equalto', 'text')", "part in [m.content]"
).replace("part.text", "part")
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def held_to_its_prompts(chat: ChatFormat, turns: Sequence[Turn]) -> str:
    """Check that prompts equal the training text and that labels are the answers with their ends; return the text."""
    encoded = chat.encode(turns)
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    for (start, labels), place in zip(labelled_runs(encoded), answers, strict=True):
        assert chat.prompt_ids(turns[:place]) == encoded.input_ids[:start].tolist()
        assert labels[-1] in chat.stop_ids
        assert chat.decode(labels) == turns[place].content.strip()
    return str(chat.tokenizer.decode(encoded.input_ids[encoded.input_ids >= 0]))


def test_a_prompt_that_depends_on_a_word_in_the_system_text_is_the_same_in_training_and_asking() -> None:
    chat = ChatFormat(qwen(MODES, ("<think>", "</think>")))
    said = ("Which?", "red", "How many?", "one")
    assert held_to_its_prompts(chat, turns_of(*said, system="/no_think Be brief.")).count("<think>") == 2
    assert held_to_its_prompts(chat, turns_of(*said, system="Be brief.")).count("<think>") == 0


@pytest.mark.parametrize("template", [LLAVA, SMOLVLM])
def test_a_template_that_reads_lists_of_parts_gets_them(template: str) -> None:
    chat = ChatFormat(llama(template, ("<|im_start|>", "<|im_end|>")))
    text = held_to_its_prompts(chat, turns_of("Which?", "red", "How many?", "one", system="Be brief."))
    assert [text.count(said) for said in ("Be brief.", "Which?", "red", "How many?", "one")] == [1, 1, 1, 1, 1]


def test_lists_of_parts_and_texts_have_the_same_ids() -> None:
    lists, texts = (ChatFormat(llama(template)) for template in (LLAVA, LLAVA_OF_TEXTS))
    for turns in (turns_of("Which?", "red"), turns_of("Which?", "red", "How many?", "one", system="Be brief.")):
        assert lists.encode(turns).input_ids.equal(texts.encode(turns).input_ids)
    settings = ChatSettings(system_turns="first_question")
    turns = turns_of("Which?", "red", system="Be brief.")
    assert "Be brief." in held_to_its_prompts(ChatFormat(llama(LLAVA), settings=settings), turns)


@pytest.mark.parametrize(
    ("template", "tokens"), [(DEEPSEEK, ("<|User|>", "<|Assistant|>")), (EXAONE, ("[|user|]", "[|assistant|]"))]
)
def test_typed_tokens_that_the_template_writes_stay_text_though_they_are_not_special(
    template: str, tokens: tuple[str, str]
) -> None:
    chat = ChatFormat(byte_level(template, ("<s>", "</s>"), "</s>", bos_token="<s>", plain=tokens))
    typed = " ".join(tokens)
    turns = turns_of(f"Say {typed}", "red", system=f"No {typed}")
    ids = chat.encode(turns).input_ids.tolist()
    assert [ids.count(chat.tokenizer.convert_tokens_to_ids(token)) for token in tokens] == [1, 1]
    assert held_to_its_prompts(chat, turns).count(typed) == 2


def test_an_added_word_is_no_control_token_though_the_template_holds_it() -> None:
    chat = ChatFormat(qwen(CHATML, ("user", "assistant")))
    ids = chat.prompt_ids("the user")
    assert ids.count(chat.tokenizer.convert_tokens_to_ids("user")) == 2


def words_only(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows some letters; a sequence of other characters is one unknown token."""
    vocabulary = {
        token: index for index, token in enumerate(["<unk>", "<|im_start|>", "<|im_end|>", *"abcdenqrstuwo "])
    }
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Split("<", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", chat_template=template)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("said", ["red", "red\n", "Éa"])
def test_an_unknown_word_ends_no_answer_and_is_not_lost(said: str) -> None:
    chat = ChatFormat(words_only(CHATML))
    [(_, labels)] = labelled_runs(chat.encode([Turn("user", "<video>\nwater"), Turn("assistant", said)]))
    tokens = chat.tokenizer.convert_ids_to_tokens(labels)
    assert tokens == {"red": ["r", "e", "d"], "red\n": ["r", "e", "d", "<unk>"], "Éa": ["<unk>", "a"]}[said] + [
        "<|im_end|>"
    ]
