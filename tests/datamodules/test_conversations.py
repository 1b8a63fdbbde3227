from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from datamodules.batch import IGNORED_LABEL, VIDEO_PLACEHOLDER
from datamodules.conversations import EncodedTurns, build_turns, load_tokenizer
from datamodules.errors import SampleError
from datamodules.schema import Turn
from tests.fixtures_data import make_tiny_tokenizer

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


@pytest.mark.parametrize(
    ("template", "labelled"),
    [
        # The end of a turn is ordinary text: nothing else could teach the model to stop.
        (
            "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} . {% endfor %}"
            "{% if add_generation_prompt %}assistant {% endif %}",
            ["red", ".", "blue", "."],
        ),
        # The generation prompt is shorter than what the answer's turn begins with.
        (
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
            ["\n", "red", "<|im_end|>", "\n", "blue", "<|im_end|>"],
        ),
    ],
    ids=["plain end", "short prompt"],
)
def test_other_templates_are_labelled_by_what_the_model_must_say(
    tmp_path: Path, template: str, labelled: list[str]
) -> None:
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    turns = [Turn("user", "hello"), Turn("assistant", " red "), Turn("user", "hello"), Turn("assistant", "blue")]
    assert words(tokenizer, build_turns(turns, tokenizer), labelled=True) == labelled


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['role'] }} {{ m['content'] }} "
            "{% endif %}{% endfor %}",
            "writes the beginning of a conversation differently once turn 3 is there",
        ),
        ("{% for m in messages %}{{ m['role'] }} {{ m['content'] | upper }} {% endfor %}", "does not show turn 1"),
        ("{% for m in messages %}{{ m['role'] }} {{ m['content'][7:] }} {% endfor %}", "does not show turn 1"),
        ("{{ raise_exception('roles must alternate') }}", "cannot render the turns user: roles must alternate"),
    ],
    ids=["forgets", "changes", "cuts", "refuses"],
)
def test_a_template_that_hides_the_answer_is_an_error(tmp_path: Path, template: str, message: str) -> None:
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    turns = [Turn("user", "hello"), Turn("assistant", "red"), Turn("user", "hello"), Turn("assistant", "blue")]
    with pytest.raises(SampleError, match=message) as caught:
        build_turns(turns, tokenizer, where="shard x.tar, key 'a'")
    assert "shard x.tar, key 'a'" in str(caught.value)


def test_a_template_that_drops_the_mark_is_an_error(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] | replace('<video>', '') }} {% endfor %}"
    tokenizer = load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=template)))
    with pytest.raises(SampleError, match="shows 0 of 1 <video> marks"):
        build_turns([Turn("user", "<video> hello"), Turn("assistant", "red")], tokenizer)


def test_a_conversation_that_is_too_long_is_an_error_and_not_cut(tokenizer: Any) -> None:
    length = len(build_turns(TWO_ROUNDS, tokenizer).input_ids)
    assert len(build_turns(TWO_ROUNDS, tokenizer, max_length=length).input_ids) == length
    with pytest.raises(SampleError, match=rf"key 'a': {length} tokens, but max_length is {length - 1}"):
        build_turns(TWO_ROUNDS, tokenizer, max_length=length - 1, where="key 'a'")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer in '.*gone'"):
        load_tokenizer(str(tmp_path / "gone"))


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no chat template.*put a chat_template\.jinja"):
        load_tokenizer(str(make_tiny_tokenizer(tmp_path, chat_template=None)))
