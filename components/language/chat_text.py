"""The text of a conversation, cut where its answers begin, as a chat template writes it when each is asked for."""

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
    """Text from where one answer begins to where the next one does; control tokens that were typed are cut in it."""

    text: str
    answer_length: int  # characters of the answer that it begins with; 0 in the first piece


QUESTION, ANSWER = PlainTurn("user", "question"), PlainTurn("assistant", "answer")
"""What a template is tried with."""

OTHER_QUESTION, OTHER_ANSWER = (
    PlainTurn("user", "Which of the 2 ?"),
    PlainTurn("assistant", "No.\n\n3 others: both\nand more"),
)
"""What it is tried with again, to see what stays the same."""


class ConversationText:
    """Writes conversations and cuts them where answers begin.

    Args:
        template: The chat template.

    Attributes:
        source: Name of the template for messages.
        header: All that the template writes between a question and its answer.

    Raises:
        ChatError: The template does not show the answer as it is, or what it writes before an answer depends on the
            answer or is left out when an answer is asked for.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.source = template.source
        # The lead is what the template writes between the prompt and the answer.
        self._lead, self.header = self._learn(QUESTION, ANSWER)
        other = self._learn(OTHER_QUESTION, OTHER_ANSWER)
        if other != (self._lead, self.header):
            raise ChatError(
                f"{self.source} writes {self.header!r} before one answer and {other[1]!r} before another. It must be "
                "the same before all, because it is written before the answer is known; remove the condition from the "
                "template"
            )

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """Write a conversation. Without a last answer the text ends where that would begin.

        Raises:
            ChatError: The template refuses these turns, or does not show them as they are.
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
        """The last answer as the template shows it, with the white space that it keeps in front, and what follows.

        What the prompt ends with must be in front of the answer too. It may depend on the turns before: SmolLM3 writes
        a think block where the system text holds ``/no_think``.
        """
        text = self._template.render(messages, ask=False)
        core, start, end = self._find_answer(text, messages[-1])
        header = prompt[len(prompt) - len(self.header) :]
        header_end = text.rfind(header, 0, start) + len(header)
        kept_space = text[header_end:start]
        if header_end < len(header) or kept_space.strip():
            raise ChatError(
                f"{self.source} writes {without_marks(text)!r}: what stands before this answer is not what it writes "
                f"when it asks for it ({header!r}); the answer may hold words that the template looks for"
            )
        return kept_space + core, text[end + 1 :]

    def _find_answer(self, text: str, answer: Message) -> tuple[str, int, int]:
        """What was said, and where the marks around it stand."""
        said = answer["content"]
        core = said[said.index(ANSWER_START) + 1 : said.index(ANSWER_END)]
        start, end = text.rfind(ANSWER_START), text.rfind(ANSWER_END)
        if start < 0 or text[start + 1 : end] != core:
            raise ChatError(
                f"{self.source} does not show the answer {without_marks(core)!r} as it is: {without_marks(text)!r}"
            )
        return core, start, end

    def _learn(self, question: Turn, answer: Turn) -> tuple[str, str]:
        """What the template writes between prompt and answer, and all that it writes between question and answer."""
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
