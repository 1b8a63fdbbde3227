"""Renders a tokenizer's chat template such that answers, control tokens and system texts can be located in the result.

Templates are programs that may trim, move or omit their inputs. So every text is marked, before rendering, with Unicode
characters that no text contains. The positions of these marks in the result are the positions of the texts. Searching
for the texts themselves would be wrong, because the template may contain the same words.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

VIDEO_MARK = "<video>"
"""Text in a user turn at which visual tokens are inserted."""

# Noncharacters of Unicode: valid in strings, no part of any text.
ANSWER_START, ANSWER_END, SYSTEM_TEXT, CUT = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_MARKS = re.compile(f"[{ANSWER_START}{ANSWER_END}{SYSTEM_TEXT}{CUT}]")

# Replaces the function of this name that transformers provides to templates, which returns today's date.
_FIXED_DATE_MACRO = (
    "{% macro strftime_now(format) %}{% set written = namespace(text=format) %}"
    "{% for directive, text in date_parts.items() %}{% set written.text = written.text | replace(directive, text) %}"
    "{% endfor %}{{ written.text }}{% endmacro %}\n"
)
_DATE_DIRECTIVES = "aAbBcdDeFHIjmMpSUwWxXyY"


class ChatError(ValueError):
    """A conversation cannot be rendered through the chat template."""


class Turn(Protocol):
    """One turn of a conversation."""

    @property
    def role(self) -> str:
        """``system``, ``user`` or ``assistant``."""

    @property
    def content(self) -> str:
        """The text."""


Message = dict[str, str]
"""A turn in the form that templates read, with the keys ``role`` and ``content``."""


@dataclass(frozen=True)
class ChatSettings:
    """Settings of the chat text besides the template.

    Args:
        date: The date, such as ``2024-07-26``, for templates that ask for today's date (Llama-3.2, SmolLM3, Granite,
            gpt-oss). It is fixed, so that training and evaluation use the same text on every day.
        system_turns: ``template`` passes system turns to the template. ``first_question`` puts the system text before
            the first question, for templates without system turns (Gemma-2, Mistral v0.1).

    Raises:
        ValueError: The date is invalid.
    """

    date: str = "2024-07-26"  # the default in Llama-3.2's template
    system_turns: Literal["template", "first_question"] = "template"

    def __post_init__(self) -> None:
        try:
            datetime.fromisoformat(self.date)
        except (TypeError, ValueError) as error:
            raise ValueError(f"date {self.date!r} is no date; write one like '2024-07-26' ({error})") from error


class ChatTemplate:
    """Renders a tokenizer's chat template.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        settings: See ``ChatSettings``.
        control_tokens: Tokens with a meaning to the model, such as ``<|im_end|>``. Where they occur in a turn's text,
            they are split, so that they are tokenized as plain text. In questions and system texts, so are other added
            tokens that the template writes; in answers these keep their meaning (``<think>``).

    Attributes:
        source: Name of the template for messages.

    Raises:
        ValueError: There is no chat template.
    """

    def __init__(self, tokenizer: Any, settings: ChatSettings, control_tokens: Iterable[str]) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so user and assistant turns cannot "
                "be told apart; put a chat_template.jinja into its folder"
            )
        self.source = f"the chat template of {tokenizer.name_or_path!r}"
        self._tokenizer = tokenizer
        self._system_turns = settings.system_turns
        self._text: str = tokenizer.get_chat_template()
        self._variables: dict[str, dict[str, str]] = {}
        if "strftime_now" in self._text:
            self._text = _FIXED_DATE_MACRO + self._text
            self._variables["date_parts"] = _date_parts(datetime.fromisoformat(settings.date))
        self._reads_lists = False
        self._sample = self._render_sample()
        written = {str(token) for token in tokenizer.added_tokens_decoder.values() if self.writes(str(token))}
        self._in_answers = _any_of({*control_tokens, VIDEO_MARK})
        self._in_system_texts = _any_of({*control_tokens, *written, VIDEO_MARK})
        self._in_questions = _any_of({*control_tokens, *written})

    def writes(self, token: str) -> bool:
        """Whether the template writes this token. False for white space and plain words, which are ordinary text."""
        is_plain = not token.strip() or token.strip().isalnum()
        return not is_plain and (token in self._text or token in self._sample)

    def mark(self, turns: Sequence[Turn]) -> list[Message]:
        """Convert turns to messages with marks: around answers, in system texts, and inside typed control tokens.

        Raises:
            ChatError: A text already contains a character that is used as a mark.
        """
        messages = [self._mark(turn, index) for index, turn in enumerate(turns)]
        first_question = next((message for message in messages if message["role"] == "user"), None)
        if self._system_turns == "first_question" and messages[0]["role"] == "system" and first_question is not None:
            first_question["content"] = f"{messages[0]['content']}\n\n{first_question['content']}"
            del messages[0]
        return messages

    def render(self, messages: Sequence[Message], *, ask: bool) -> str:
        """Render messages.

        Args:
            messages: The messages.
            ask: Whether to append the generation prompt.

        Raises:
            ChatError: The template cannot render them.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                [self._as_template_reads(message) for message in messages],
                chat_template=self._text,
                tokenize=False,
                add_generation_prompt=ask,
                **self._variables,
            )
        except (TemplateError, AttributeError, LookupError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ChatError(f"{self.source} cannot render the turns {roles}: {error}{self.advice(messages)}") from error
        return text

    def _render_sample(self) -> str:
        """Render a short conversation, and find out whether the template reads contents as text or as a list of parts.

        Templates of composite models (LLaVA, SmolVLM) loop over parts, and omit contents that are plain text.
        """
        messages = [{"role": role, "content": CUT} for role in ("user", "assistant")]
        for self._reads_lists in (False, True):
            with suppress(ChatError):  # raised again when a conversation is rendered
                sample = self.render(messages, ask=False)
                if sample.count(CUT) == len(messages):
                    return sample
        self._reads_lists = False
        return ""

    def _as_template_reads(self, message: Message) -> dict[str, Any]:
        content = message["content"]
        return {**message, "content": [{"type": "text", "text": content}] if self._reads_lists else content}

    def advice(self, messages: Sequence[Message]) -> str:
        """Advice for the case that the template does not support system turns; empty if there is none."""
        if not any(message["role"] == "system" for message in messages):
            return ""
        return (
            ". If it has no system turn, set system_turns to 'first_question' "
            "(model.language_model.init_args.chat.system_turns): the system text then comes in front of the first "
            "question"
        )

    def _mark(self, turn: Turn, index: int) -> Message:
        content = turn.content
        if _MARKS.search(content):
            raise ChatError(f"turn {index} holds a noncharacter of Unicode (U+FDD0 to U+FDD3); remove it from the text")
        typed = {"user": self._in_questions, "system": self._in_system_texts}.get(turn.role, self._in_answers)
        content = typed.sub(_cut_apart, content)
        if turn.role == "user":
            return {"role": turn.role, "content": content}
        # The white space around a text stays outside of the marks, so that a template can trim it.
        core = content.strip()
        start = content.index(core)
        before, after = content[:start], content[start + len(core) :]
        marked = SYSTEM_TEXT + core if turn.role == "system" else ANSWER_START + core + ANSWER_END
        return {"role": turn.role, "content": before + marked + after}


def without_marks(text: str) -> str:
    """Remove all marks."""
    return _MARKS.sub("", text)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    # A token of one character cannot be split. Longer ones first, because a token may start with another one.
    by_length = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, by_length)) or "(?!)")  # (?!) never matches


def _cut_apart(found: re.Match[str]) -> str:
    return found[0][0] + CUT + found[0][1:]


def _date_parts(date: datetime) -> dict[str, str]:
    """The text for every directive of ``strftime``; ``%-d`` is ``%d`` without a leading zero."""
    plain = {f"%{letter}": date.strftime(f"%{letter}") for letter in _DATE_DIRECTIVES}
    return plain | {f"%-{letter}": date.strftime(f"%{letter}").lstrip("0") or "0" for letter in _DATE_DIRECTIVES}
