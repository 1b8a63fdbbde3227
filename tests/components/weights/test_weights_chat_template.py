"""The conversation template of LLaVA-1.5, against the ids that SentencePiece gives by LLaVA's own recipe."""

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import LlamaTokenizer

from components.language.chat import ChatFormat
from components.weights.language_settings import CHAT_TEMPLATE
from components.weights.videollamb import main
from datamodules.batch import IGNORED_LABEL, VIDEO_PLACEHOLDER
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.errors import SampleError
from datamodules.shards.schema import Turn
from tests.fixtures_videollamb import ENCODER_FACTS, SYSTEM, make_llama_tokenizer, write_original

BOS, EOS = 1, 2
TWO_ROUNDS = [
    Turn("user", "<video>\nwhich colour ?"),
    Turn("assistant", "red"),
    Turn("user", "how many ?"),
    Turn("assistant", "3 in this video"),
]


class Recipe:
    """How LLaVA-1.5 makes ids: each text around the placeholder is read by itself, the first after the BOS id.

    ``legacy`` says whether the text after a ``</s>`` gets the blank in front that SentencePiece gives every text.
    """

    def __init__(self, model: sentencepiece.SentencePieceProcessor, legacy: bool) -> None:
        self.model, self.legacy = model, legacy

    def text(self, text: str) -> list[int]:
        ids: list[int] = self.model.encode(text)
        return ids

    def after_end(self, text: str) -> list[int]:
        if self.legacy:
            return self.text(text)
        before: list[int] = self.model.encode("<unk>")
        ids: list[int] = self.model.encode("<unk>" + text)
        assert ids[: len(before)] == before
        return ids[len(before) :]


@pytest.fixture(scope="module", params=[True, False, None], ids=["legacy", "not legacy", "legacy not named"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Recipe]:
    """A tokenizer that the import wrote, and the recipe. Not named meant legacy when LLaVA was trained."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_original(folder / "original")
    settings = {} if request.param is None else {"legacy": request.param}
    model = make_llama_tokenizer(folder / "original", **settings)
    main(["import", str(folder / "original"), str(folder / "ours"), "--part", "language_model", *ENCODER_FACTS])
    return load_tokenizer(str(folder / "ours" / "language_model")), Recipe(model, request.param is not False)


def test_video_conversation_has_the_layout_of_llava(case: tuple[Any, Recipe]) -> None:
    tokenizer, recipe = case
    encoded = build_turns(TWO_ROUNDS, tokenizer)
    prompts = [recipe.text("\nwhich colour ? ASSISTANT:"), recipe.after_end("USER: how many ? ASSISTANT:")]
    answers = [[*recipe.text("red"), EOS], [*recipe.text("3 in this video"), EOS]]
    begin = [BOS, *recipe.text(f"{SYSTEM} USER: "), VIDEO_PLACEHOLDER]
    assert encoded.input_ids.tolist() == [*begin, *prompts[0], *answers[0], *prompts[1], *answers[1]]
    hidden = [[IGNORED_LABEL] * len(each) for each in (begin + prompts[0], prompts[1])]
    assert encoded.labels.tolist() == [*hidden[0], *answers[0], *hidden[1], *answers[1]]


def test_text_conversation_has_the_layout_of_llava(case: tuple[Any, Recipe]) -> None:
    tokenizer, recipe = case
    encoded = build_turns([Turn("user", "say hello"), Turn("assistant", "hello")], tokenizer)
    prompt = [BOS, *recipe.text(f"{SYSTEM} USER: say hello ASSISTANT:")]
    answer = [*recipe.text("hello"), EOS]
    assert encoded.input_ids.tolist() == prompt + answer
    assert encoded.labels.tolist() == [IGNORED_LABEL] * len(prompt) + answer


def test_options_are_scored_with_the_ids_of_answers(case: tuple[Any, Recipe]) -> None:
    tokenizer, recipe = case
    chat = ChatFormat(tokenizer)
    assert chat.answer_ids("3 in this video") == [*recipe.text("3 in this video"), EOS]
    assert chat.end_of_turn_id == EOS
    assert chat.decode([*recipe.text("red"), EOS, 5]) == "red"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    make_llama_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = load_tokenizer(str(tmp_path))
    assert isinstance(loaded, LlamaTokenizer)
    return loaded


def rendered(tokenizer: Any, turns: list[Turn], *, ask: bool = False) -> str:
    messages = [turn._asdict() for turn in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    return text


def test_template_writes_the_published_text(tokenizer: Any) -> None:
    assert rendered(tokenizer, TWO_ROUNDS) == (
        f"<s>{SYSTEM} USER: <video>\nwhich colour ? ASSISTANT: red</s>USER: how many ? ASSISTANT: 3 in this video</s>"
    )
    assert rendered(tokenizer, TWO_ROUNDS[:1], ask=True) == f"<s>{SYSTEM} USER: <video>\nwhich colour ? ASSISTANT:"


def test_visual_tokens_come_first_in_their_turn(tokenizer: Any) -> None:
    turns = [Turn("user", "which colour ?\n<video>"), Turn("assistant", "red")]
    assert rendered(tokenizer, turns) == rendered(tokenizer, TWO_ROUNDS[:2])


def test_own_system_turn_replaces_the_sentence(tokenizer: Any) -> None:
    turns = [Turn("system", "Be brief."), *TWO_ROUNDS[:2]]
    assert rendered(tokenizer, turns) == "<s>Be brief. USER: <video>\nwhich colour ? ASSISTANT: red</s>"


@pytest.mark.parametrize("turns", [[Turn("tool", "x")], [Turn("user", "x"), Turn("system", "y")]])
def test_unknown_turns_are_refused(turns: list[Turn], tokenizer: Any) -> None:
    with pytest.raises(SampleError, match=f"got {turns[-1].role}"):
        build_turns([*turns, Turn("assistant", "z")], tokenizer)
