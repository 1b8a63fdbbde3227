"""The words of a question are read back from its tokens, whatever the chat template writes around them."""

from typing import Any

import pytest

from components.language.chat_text import PlainTurn
from tests.components.chat_tokenizers import ALL, WITHOUT_SYSTEM_TURN
from tests.components.language.test_chat import format_of

SYSTEM = ("system", "Answer briefly.")
SYSTEM_IN_QUESTION = ("llama-2", "llama-2, legacy", "gemma-3", "mistral-0.3", *WITHOUT_SYSTEM_TURN)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("which colour ?", "which colour ?"),
        ("which colour <video>", "which colour"),
        ([("user", "<video>\nwhich cup ?"), ("assistant", "red"), ("user", "which colour ?")], "which cup ?"),
        ([("user", "which cup ? <video>"), ("assistant", "red"), ("user", "which colour ?")], "which cup ?"),
        ([SYSTEM, ("user", "<video>\nwhich cup ?")], "which cup ?"),
        ([("user", "which cup ?")], ""),
    ],
)
def test_the_question_is_what_stands_beside_the_first_medium(name: str, asked: Any, expected: str) -> None:
    chat = format_of(name)
    turns = asked if isinstance(asked, str) else [PlainTurn(*turn) for turn in asked]
    assert "".join(chat.question_of(chat.prompt_ids(turns)).split()) == "".join(expected.split())


@pytest.mark.parametrize("name", ALL)
def test_a_system_text_may_come_along_only_where_the_template_writes_it_into_the_question(name: str) -> None:
    chat = format_of(name)
    read = chat.question_of(chat.prompt_ids([PlainTurn(*SYSTEM), PlainTurn("user", "which cup ? <video>")]))
    words = "".join(read.split())
    assert words.endswith("whichcup?")
    assert ("briefly" in words) == (name in SYSTEM_IN_QUESTION)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("vicuna")])  # vicuna shows one a turn
def test_other_media_are_left_out_of_the_question(name: str) -> None:
    chat = format_of(name)
    asked = PlainTurn("user", "what is shown in <video> and <video> ?")
    assert "".join(chat.question_of(chat.prompt_ids([asked])).split()) == "and?"
