"""Renders conversations through a chat template and splits the text before every answer.

Every answer's prompt is rendered as for generation, without the turns after it; see ``components.language.chat``.
"""

from collections.abc import Sequence
from typing import NamedTuple

from components.language.chat_template import (
    ANSWER_END,
    ANSWER_START,
    SYSTEM_TEXT,
    VIDEO_MARK,
    ChatError,
    ChatTemplate,
    Message,
    Turn,
    without_marks,
)


class PlainTurn(NamedTuple):
    """A turn."""

    role: str
    content: str


class Piece(NamedTuple):
    """Text from the beginning of one answer to the beginning of the next. Typed control tokens in it are split."""

    text: str
    answer_length: int  # characters of the answer at its beginning; 0 in the first piece


QUESTION, ANSWER = PlainTurn("user", "question"), PlainTurn("assistant", "answer")
"""A short conversation on which the form of a template is measured."""

OTHER_QUESTION, OTHER_ANSWER = (
    PlainTurn("user", "Which of the 2 ?"),
    PlainTurn("assistant", "No.\n\n3 others: both\nand more"),
)
"""A second one: the form must be the same."""


class ConversationText:
    """Renders conversations and splits them before every answer.

    Args:
        template: The chat template.

    Attributes:
        source: Name of the template for messages.
        header: The text that the template writes between a question and its answer.

    Raises:
        ChatError: The template changes the text of an answer, or the text before an answer depends on the answer or is
            missing from the prompt.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.source = template.source
        # The lead is text that the template writes between its generation prompt and the answer.
        self._lead, self.header = self._learn(QUESTION, ANSWER)
        other = self._learn(OTHER_QUESTION, OTHER_ANSWER)
        if other != (self._lead, self.header):
            raise ChatError(
                f"{self.source} writes {self.header!r} before one answer and {other[1]!r} before another. It must be "
                "the same before all, because it is written before the answer is known; remove the condition from the "
                "template"
            )

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """Render a conversation and split it. If the last turn is not an answer, the text ends with the prompt for one.

        Raises:
            ChatError: The template cannot render these turns, or changes their text.
        """
        messages = self._template.mark(turns)
        ends = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if messages[-1]["role"] != "assistant":
            ends.append(len(messages))
        pieces: list[Piece] = []
        answer = rest = ""
        shows_system = False
        for num_answers, end in enumerate(ends):
            prompt = self._template.render(messages[:end], ask=True)
            if prompt.count(ANSWER_END) != num_answers:
                raise ChatError(f"{self.source} leaves earlier answers out; use a template that shows them")
            shows_system |= SYSTEM_TEXT in prompt
            text = answer + prompt[prompt.rfind(ANSWER_END) + 1 :] + self._lead
            asked = text.rstrip(" ")
            pieces.append(_piece(asked, answer))
            if end < len(messages):
                shown, rest = self._shown(messages[: end + 1], prompt + self._lead)
                answer = text[len(asked) :] + shown
        if messages[-1]["role"] == "assistant":
            pieces.append(_piece(answer + rest, answer))
        if not shows_system and any(SYSTEM_TEXT in message["content"] for message in messages):
            raise ChatError(f"{self.source} does not show the system turn{self._template.advice(messages)}")
        num_marks = sum(turn.content.count(VIDEO_MARK) for turn in turns if turn.role == "user")
        num_shown = sum(piece.text.count(VIDEO_MARK) for piece in pieces)
        if num_shown != num_marks:
            raise ChatError(f"{self.source} shows {num_shown} of {num_marks} {VIDEO_MARK} marks")
        return pieces

    def _shown(self, messages: Sequence[Message], prompt: str) -> tuple[str, str]:
        """The last answer as rendered, including white space before it, and the text after it.

        The text before the answer must equal the end of the prompt. It may depend on earlier turns: SmolLM3 writes a
        think block if the system text contains ``/no_think``.
        """
        text = self._template.render(messages, ask=False)
        core, start, end = self._find_answer(text, messages[-1])
        header = prompt[len(prompt) - len(self.header) :]
        header_end = text.rfind(header, 0, start) + len(header)
        kept_space = text[header_end:start]
        if header_end < len(header) or kept_space.strip():
            raise ChatError(
                f"{self.source} writes {without_marks(text)!r}: the text before this answer is not the end of its "
                f"prompt ({header!r}); the answer may hold words that the template looks for"
            )
        return kept_space + core, text[end + 1 :]

    def _find_answer(self, text: str, answer: Message) -> tuple[str, int, int]:
        """The text of an answer, and the positions of the marks around it."""
        said = answer["content"]
        core = said[said.index(ANSWER_START) + 1 : said.index(ANSWER_END)]
        start, end = text.rfind(ANSWER_START), text.rfind(ANSWER_END)
        if start < 0 or text[start + 1 : end] != core:
            raise ChatError(
                f"{self.source} does not show the answer {without_marks(core)!r} as it is: {without_marks(text)!r}"
            )
        return core, start, end

    def _learn(self, question: Turn, answer: Turn) -> tuple[str, str]:
        """Measure the text between generation prompt and answer, and the text between question and answer."""
        messages = self._template.mark([question, answer])
        messages[0]["content"] += SYSTEM_TEXT  # marks where the question ends
        prompt = self._template.render(messages[:1], ask=True)
        text = self._template.render(messages, ask=False)
        _, start, _ = self._find_answer(text, messages[1])
        if not text.startswith(prompt):
            raise ChatError(
                f"{self.source} writes {without_marks(prompt)!r} to ask for an answer, but {without_marks(text)!r} "
                "where one is given; the second must begin with the first"
            )
        if SYSTEM_TEXT not in prompt:
            raise ChatError(f"{self.source} does not show the question {question.content!r}: {prompt!r}")
        lead = text[len(prompt) : start]
        if lead.strip() and self._template.render(messages[:1], ask=False) == prompt:
            raise ChatError(
                f"{self.source} ignores add_generation_prompt: it writes {lead!r} before an answer, but not when it is "
                f"asked for one. Append {{% if add_generation_prompt %}}{{{{ {lead!r} }}}}{{% endif %}} to the template"
            )
        return lead, prompt[prompt.rfind(SYSTEM_TEXT) + 1 :] + lead


def _piece(text: str, answer: str) -> Piece:
    return Piece(text.replace(SYSTEM_TEXT, ""), len(without_marks(answer)))
