from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.language.chat import EncodedTurns
from components.language.chat_template import ChatSettings
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.errors import ConversationError, LongConversationError
from datamodules.shards.schema import Turn
from tests.fixtures_data import CHAT_TEMPLATE, make_tiny_tokenizer

VICUNA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }} "
    "{% elif m['role'] == 'user' %}USER: {{ m['content'] }} ASSISTANT:{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
TWO_ROUNDS = [
    Turn("system", "you are a helpful model"),
    Turn("user", "<video>\nwhich colour ?"),
    Turn("assistant", "red"),
    Turn("user", "and the shape ?"),
    Turn("assistant", "a star ."),
]


def words(tokenizer: Any, encoded: EncodedTurns, *, labelled: bool) -> list[str]:
    kept = [
        token for token, label in zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True)
        if (label != IGNORED_LABEL) == labelled
    ]  # fmt: skip
    return ["<video>" if token == VIDEO_PLACEHOLDER else tokenizer.convert_ids_to_tokens(token) for token in kept]


@pytest.fixture(scope="module")
def sentencepiece_like(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer like LLaMA's: a blank belongs to the word after it, and the text gets one in front."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyzASUERINT:?.\n"]
    merges = [("▁", letter) for letter in "abcdefghijklmnopqrstuvwxyzAU"] + [("▁r", "e"), ("▁re", "d")]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *("".join(merge) for merge in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    folder = tmp_path_factory.mktemp("sentencepiece")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=VICUNA
    ).save_pretrained(folder)
    return load_tokenizer(str(folder))


def test_only_what_the_assistant_says_is_labelled_with_its_end(tokenizer: Any) -> None:
    encoded = build_turns(TWO_ROUNDS, tokenizer)
    assert words(tokenizer, encoded, labelled=True) == ["red", "<|im_end|>", "a", "star", ".", "<|im_end|>"]
    kept = encoded.labels != IGNORED_LABEL
    assert (encoded.labels[kept] == encoded.input_ids[kept]).all()


def test_the_whole_text_arrives_with_one_placeholder(tokenizer: Any) -> None:
    encoded = build_turns(TWO_ROUNDS, tokenizer)
    messages = [turn._asdict() for turn in TWO_ROUNDS]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split("<video>"))
    assert encoded.input_ids.tolist() == [*before, VIDEO_PLACEHOLDER, *after]


def test_what_stands_before_the_first_label_is_the_prompt(tokenizer: Any) -> None:
    encoded = build_turns(TWO_ROUNDS, tokenizer)
    first = int((encoded.labels != IGNORED_LABEL).nonzero()[0])
    prompt = tokenizer.apply_chat_template(
        [turn._asdict() for turn in TWO_ROUNDS[:2]], tokenize=False, add_generation_prompt=True
    )
    expected = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in prompt.split("<video>")]
    assert encoded.input_ids[:first].tolist() == [*expected[0], VIDEO_PLACEHOLDER, *expected[1]]


def test_answers_that_repeat_words_of_the_prompt_are_found(tokenizer: Any) -> None:
    turns = [Turn("user", "say red red"), Turn("assistant", "red"), Turn("user", "red"), Turn("assistant", "user red")]
    encoded = build_turns(turns, tokenizer)
    assert words(tokenizer, encoded, labelled=True) == ["red", "<|im_end|>", "user", "red", "<|im_end|>"]


def test_a_template_without_marks_around_the_answer_is_labelled_right(sentencepiece_like: Any) -> None:
    turns = [Turn("user", "<video>\nwhat"), Turn("assistant", "red"), Turn("user", "why"), Turn("assistant", "no")]
    encoded = build_turns(turns, sentencepiece_like)
    assert words(sentencepiece_like, encoded, labelled=True) == ["▁red", "</s>", "▁n", "o", "</s>"]
    assert words(sentencepiece_like, encoded, labelled=False)[0] == "<s>"


def test_the_blank_before_an_answer_is_not_doubled(sentencepiece_like: Any) -> None:
    turns = [Turn("user", "what"), Turn("assistant", "red")]
    text = sentencepiece_like.apply_chat_template([turn._asdict() for turn in turns], tokenize=False)
    expected = sentencepiece_like(text, add_special_tokens=False)["input_ids"]
    assert build_turns(turns, sentencepiece_like).input_ids.tolist() == expected


def test_what_the_template_puts_before_every_answer_is_not_labelled(tmp_path: Path) -> None:
    # The generation prompt is shorter than what the answer's turn begins with.
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    turns = [Turn("user", "hello"), Turn("assistant", " red "), Turn("user", "hello"), Turn("assistant", "blue")]
    labelled = words(tokenizer, build_turns(turns, tokenizer), labelled=True)
    assert labelled == ["red", "<|im_end|>", "blue", "<|im_end|>"]


def test_a_template_that_is_of_no_use_is_refused_with_the_tokenizer(tmp_path: Path) -> None:
    folder = make_tiny_tokenizer(tmp_path, chat_template="{% for m in messages %}{{ m['content'] }} . {% endfor %}")
    with pytest.raises(ValueError, match=f"chat template of '{folder}' ends an assistant's turn without a special"):
        load_tokenizer(str(folder))


def test_turns_that_the_template_refuses_are_named(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE.replace(
        "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for", 1
    )
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    message = r"^shard x.tar, key 'a': .* cannot render the turns system, user: no system.*first_question"
    with pytest.raises(ConversationError, match=message):
        build_turns(TWO_ROUNDS, tokenizer, where="shard x.tar, key 'a'")
    settings = ChatSettings(system_turns="first_question")
    assert "helpful" in words(tokenizer, build_turns(TWO_ROUNDS, tokenizer, chat=settings), labelled=False)


def test_a_template_that_drops_the_mark_is_an_error(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | replace('<video>', '')")
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    with pytest.raises(ConversationError, match="shows 0 of 1 <video> marks"):
        build_turns([Turn("user", "<video> hello"), Turn("assistant", "red")], tokenizer)


def test_a_conversation_that_is_too_long_is_an_error_and_not_cut(tokenizer: Any) -> None:
    length = len(build_turns(TWO_ROUNDS, tokenizer).input_ids)
    assert len(build_turns(TWO_ROUNDS, tokenizer, max_length=length).input_ids) == length
    with pytest.raises(LongConversationError, match=rf"key 'a': {length} tokens, but max_length is {length - 1}"):
        build_turns(TWO_ROUNDS, tokenizer, max_length=length - 1, where="key 'a'")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer in '.*gone'"):
        load_tokenizer(str(tmp_path / "gone"))


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no chat template.*put a chat_template\.jinja"):
        load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=None)))
