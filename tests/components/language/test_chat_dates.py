"""Templates that write a date: it is that of the settings, never the calendar's."""

import datetime
from typing import Any

import pytest

from components.language.chat import ChatFormat
from components.language.chat_template import ChatSettings
from datamodules.shards.schema import Turn
from tests.components.chat_templates import CHATML
from tests.components.chat_tokenizers import (
    DATED,
    qwen,
)
from tests.components.language.test_chat import text_of, tokenizer_of, turns_of


class OtherDay(datetime.datetime):
    """A calendar with another date than today's."""

    @classmethod
    def now(cls, tz: Any = None) -> "OtherDay":
        return cls(2031, 1, 2)


@pytest.mark.parametrize("name", DATED)
def test_the_date_of_a_conversation_is_the_settings_and_not_the_calendars(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = turns_of("Which?", "red")
    before = ChatFormat(tokenizer_of(name)).encode(turns).input_ids
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", OtherDay)
    assert ChatFormat(tokenizer_of(name)).encode(turns).input_ids.equal(before)
    assert "2024" in text_of(name, turns)
    later = ChatFormat(tokenizer_of(name), settings=ChatSettings(date="2025-03-04"))
    assert "2025" in later.tokenizer.decode(later.prompt_ids([Turn("user", "Which?")]))


def test_dates_are_written_as_the_template_asks() -> None:
    template = "{{ strftime_now('%A, %B %-d %Y') }} {{ strftime_now is defined }}\n" + CHATML
    chat = ChatFormat(qwen(template), settings=ChatSettings(date="2024-07-06"))
    assert chat.tokenizer.decode(chat.prompt_ids([Turn("user", "x")])).startswith("Saturday, July 6 2024 True\n")


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'tomorrow' is no date"):
        ChatSettings(date="tomorrow")
