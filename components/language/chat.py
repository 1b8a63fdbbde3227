"""The one place where conversations become token ids: for training, for asking, and for the options of an answer.

**A prompt** is all that stands before an answer and does not depend on it: what the template writes to ask for an
answer, and what it then always writes in front of one (the empty think block of Qwen3, the channel of gpt-oss). It is
not labelled, not generated and not counted. Blanks at its end belong to the answer, because tokenizers read a blank and
the word behind it as one token.

**Every answer is written as it is when it is asked for.** Some templates write an answer, its question or its end
otherwise once more turns follow (Qwen3 drops the think block, Mistral v0.3 shows the system text in the last question
alone). A conversation is therefore put together from the prompt of each of its answers: what is new in a prompt since
the answer before. So the prompt for a turn equals what training saw before its answer, for every turn.

**Text is cut before every answer**, and both sides are tokenized apart. Else the first letters of an answer could
change the last ids of its prompt, which is asked without them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL
from components.language.chat_pieces import PieceIds, PieceTokenizer
from components.language.chat_template import (
    ANSWER_END,
    ANSWER_START,
    SYSTEM_TEXT,
    VIDEO_MARK,
    ChatError,
    ChatSettings,
    ChatTemplate,
    Message,
    Turn,
    without_marks,
)


class EncodedTurns(NamedTuple):
    """One conversation as the language model reads it."""

    input_ids: Tensor  # [k] int64, VIDEO_PLACEHOLDER where the visual tokens belong
    labels: Tensor  # [k] int64, IGNORED_LABEL outside the assistant's turns


class _Said(NamedTuple):
    """A turn that is made here."""

    role: str
    content: str


class _Piece(NamedTuple):
    """Text from where one answer begins to where the next one does."""

    text: str
    answer_length: int  # characters of the answer that it begins with; 0 in the first piece


_QUESTION, _ANSWER = _Said("user", "question"), _Said("assistant", "answer")
_OTHER_QUESTION, _OTHER_ANSWER = (
    _Said("user", "Which of the 2 ?"),
    _Said("assistant", "No.\n\n3 others: both\nand more"),
)


class ChatFormat:
    """Turns conversations into token ids with labels, questions into prompts, and generated ids back into answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        more_stop_ids: Ids that end a generation besides the template's own, such as those of a generation config.
        settings: See ``ChatSettings``.

    Attributes:
        tokenizer: The tokenizer.
        end_of_turn_id: The first special token that the template writes after the last answer.
        stop_ids: Every id that ends a generation.
        pad_id: Id for padding.

    Raises:
        ValueError: There is no chat template, or one from which no prompt can be made: it does not show the answer as
            it is, what it writes before an answer depends on the answer or is left out when an answer is asked for, or
            no special token ends an assistant's turn (such a model could neither learn nor be told when to stop). Or
            the tokenizer loses letters of plain text.
    """

    def __init__(
        self,
        tokenizer: Any,
        more_stop_ids: Sequence[int] = (),
        settings: ChatSettings = ChatSettings(),  # noqa: B008
    ) -> None:
        self.tokenizer = tokenizer
        special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = {*special, *tokenizer.all_special_ids, *more_stop_ids}
        self._template = ChatTemplate(tokenizer, settings, [*special.values(), *tokenizer.all_special_tokens])
        self._pieces = PieceTokenizer(tokenizer, self._special_ids)
        self._lead, self._header = self._learn_prompt()
        self._text_before_answer = self._pieces.text_before(self._header.rstrip(" "))
        *word_ids, self.end_of_turn_id = self.answer_ids(_ANSWER.content)
        self._check_read_back(word_ids)
        eos_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids = sorted({self.end_of_turn_id, self._end_of_earlier_turn(), *eos_ids, *more_stop_ids})
        self.pad_id: int = self.end_of_turn_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def encode(self, turns: Sequence[Turn]) -> EncodedTurns:
        """Ids and labels of a conversation that ends with an answer.

        Labelled are the assistant's turns, from the first token of the answer to the special token that ends it.

        Args:
            turns: The conversation; ``<video>`` in a user turn marks the visual tokens' place.

        Raises:
            ChatError: The template refuses these turns, or does not show them as they are.
        """
        first, *others = self._write(turns)
        ids = self._pieces.beginning(first.text)
        labels = [IGNORED_LABEL] * len(ids)
        for piece in others:
            read = self._pieces.continuation(piece.text, self._text_before_answer)
            num_labelled = self._end_of_answer(piece, read)[0] + 1
            ids += read.ids
            labels += read.ids[:num_labelled]
            labels += [IGNORED_LABEL] * (len(read.ids) - num_labelled)
        return EncodedTurns(torch.tensor(ids), torch.tensor(labels))

    def prompt_ids(self, asked: str | Sequence[Turn]) -> list[int]:
        """Token ids up to where an answer begins: those that ``encode`` gives before the first label of that answer.

        Args:
            asked: What the user says about a video, ``<video>`` at the visual tokens' place (on a line in front where
                it has none). Or the turns so far, the last of which is a user's.

        Returns:
            The ids, VIDEO_PLACEHOLDER where the visual tokens belong.

        Raises:
            ChatError: The template refuses these turns, or does not show the mark of a question exactly once.
        """
        if isinstance(asked, str):
            if asked.count(VIDEO_MARK) > 1:
                raise ChatError(
                    f"in {asked!r} {VIDEO_MARK} stands {asked.count(VIDEO_MARK)} times; exactly one is needed to place "
                    "the visual tokens"
                )
            # As the converters of the training data write it.
            asked = [_Said("user", asked if VIDEO_MARK in asked else f"{VIDEO_MARK}\n{asked}")]
        first, *others = self._write(asked)
        ids = self._pieces.beginning(first.text)
        for piece in others:
            ids += self._pieces.continuation(piece.text, self._text_before_answer).ids
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, up to and including the token that ends the turn; at least one.

        Raises:
            ChatError: The template does not show the answer as it is, or ends the turn without a special token.
        """
        _, piece = self._write([_QUESTION, _Said("assistant", answer)])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        return read.ids[: self._end_of_answer(piece, read)[0] + 1]

    def decode(self, generated_ids: Sequence[int]) -> str:
        """Text of a generated answer: up to the first id that stops, without special tokens, stripped."""
        stop = next((place for place, token in enumerate(generated_ids) if token in self.stop_ids), len(generated_ids))
        text: str = self.tokenizer.decode(generated_ids[:stop], skip_special_tokens=True)
        return text.strip()

    def _write(self, turns: Sequence[Turn]) -> list[_Piece]:
        """Text of a conversation, cut where answers begin. Without a last answer it ends where that would begin."""
        messages = self._template.mark(turns)
        answers = [index for index, message in enumerate(messages) if message.is_answer]
        ends = answers if messages[-1].is_answer else [*answers, len(messages)]
        pieces: list[_Piece] = []
        answer = rest = ""
        for num_answers, end in enumerate(ends):
            prompt = self._template.prompt(messages[:end])
            if prompt.count(ANSWER_END) != num_answers:
                raise ChatError(f"{self._template.source} leaves earlier answers out; use a template that shows them")
            text = answer + prompt[prompt.rfind(ANSWER_END) + 1 :] + self._lead
            cut = text.rstrip(" ")
            pieces.append(_Piece(cut, len(answer)))
            if end < len(messages):
                shown, rest = self._shown(messages[: end + 1])
                answer = text[len(cut) :] + shown
        if messages[-1].is_answer:
            pieces.append(_Piece(answer + rest, len(answer)))
        self._template.refuse_hidden_system_turn(messages, [piece.text for piece in pieces])
        marks = sum(turn.content.count(VIDEO_MARK) for turn in turns if turn.role == "user")
        shown_marks = sum(piece.text.count(VIDEO_MARK) for piece in pieces)
        if shown_marks != marks:
            raise ChatError(f"{self._template.source} shows {shown_marks} of {marks} {VIDEO_MARK} marks")
        # The first piece alone may hold an answer's length of 0; marks of answers are gone, those of cuts stay.
        return [_Piece(p.text.replace(SYSTEM_TEXT, ""), len(without_marks(p.text[: p.answer_length]))) for p in pieces]

    def _shown(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The last answer as the template shows it, with the white space that it keeps in front, and what follows."""
        text = self._template.answered(messages)
        said = messages[-1]["content"]
        core = said[said.index(ANSWER_START) + 1 : said.index(ANSWER_END)]
        start, end = text.rfind(ANSWER_START), text.rfind(ANSWER_END)
        if start < 0 or text[start + 1 : end] != core:
            raise ChatError(
                f"{self._template.source} does not show the answer {without_marks(core)!r} as it is: "
                f"{without_marks(text)!r}"
            )
        header_end = text.rfind(self._header, 0, start) + len(self._header)
        kept_space = text[header_end:start]
        if header_end < len(self._header) or kept_space.strip():
            raise ChatError(
                f"{self._template.source} writes {without_marks(text)!r}: what stands before this answer is not what "
                f"it writes before others ({self._header!r}); the answer may hold words that the template looks for"
            )
        return kept_space + core, text[end + 1 :]

    def _end_of_answer(self, piece: _Piece, read: PieceIds) -> tuple[int, int]:
        """The token that ends the answer with which a piece begins: its place, and its first character."""
        for place, start in read.specials:
            if start >= piece.answer_length:
                return place, start
        raise ChatError(
            f"{self._template.source} ends an assistant's turn without a special token: {piece.text!r}. Generation "
            f"could not stop; let the template write one, such as {self.tokenizer.eos_token or '<|im_end|>'!r}, after "
            "every answer"
        )

    def _learn_prompt(self) -> tuple[str, str]:
        """What the template writes between a prompt and its answer, and all that it writes from a question on."""
        template = self._template
        found = set()
        for question, answer in ((_QUESTION, _ANSWER), (_OTHER_QUESTION, _OTHER_ANSWER)):
            messages = template.mark([question, answer])
            messages[0]["content"] += SYSTEM_TEXT  # marks where the question ends
            prompt, text = template.prompt(messages[:1]), template.answered(messages)
            shown = text[text.find(ANSWER_START) + 1 : text.find(ANSWER_END)]
            if ANSWER_START not in text or shown != answer.content:
                raise ChatError(
                    f"{template.source} does not show the answer {answer.content!r} as it is: {without_marks(text)!r}"
                )
            if not text.startswith(prompt):
                raise ChatError(
                    f"{template.source} writes {without_marks(prompt)!r} to ask for an answer, but "
                    f"{without_marks(text)!r} where one is given; the second must begin with the first"
                )
            if SYSTEM_TEXT not in prompt:
                raise ChatError(f"{template.source} does not show the question {question.content!r}: {prompt!r}")
            lead = text[len(prompt) : text.find(ANSWER_START)]
            found.add((lead, prompt[prompt.rfind(SYSTEM_TEXT) + 1 :] + lead))
            if lead.strip() and template.fill_in(messages[:1], ask=False) == prompt:
                raise ChatError(
                    f"{template.source} ignores add_generation_prompt: it writes {lead!r} before an answer, but not "
                    "when it is asked for one. Append {% if add_generation_prompt %}{{ "
                    f"{lead!r} }}}}{{% endif %}} to the template"
                )
        if len(found) > 1:
            raise ChatError(
                f"{template.source} writes other text before an answer depending on the answer or its question: "
                f"{sorted(header for _, header in found)}. It must be the same before every answer, because it is "
                "written before the answer is known; remove the condition from the template"
            )
        return found.pop()

    def _end_of_earlier_turn(self) -> int:
        """The special token that ends an answer which another question follows."""
        _, piece = self._write([_QUESTION, _ANSWER, _OTHER_QUESTION])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        place, start = self._end_of_answer(piece, read)
        if start >= piece.text.find(_OTHER_QUESTION.content, piece.answer_length):
            raise ChatError(
                f"{self._template.source} ends an answer without a special token where another question follows: "
                f"{piece.text!r}; let the template write one after every answer"
            )
        return read.ids[place]

    def _check_read_back(self, word_ids: Sequence[int]) -> None:
        read_back = self.tokenizer.decode(word_ids).strip()
        if read_back != _ANSWER.content and self.tokenizer.unk_token_id not in word_ids:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path!r}, loaded as {type(self.tokenizer).__name__}, reads "
                f"{_ANSWER.content!r} as {read_back!r}: its tokenizer.json is of another kind than transformers takes "
                "for this model_type; use the model type's own kind of tokenizer, or a model type that leaves the "
                "choice (such as llama)"
            )


def chat_format(tokenizer: Any, settings: ChatSettings = ChatSettings()) -> ChatFormat:  # noqa: B008  frozen
    """The format of a tokenizer, made once: learning it takes several renderings.

    Raises:
        ValueError: See ``ChatFormat``.
    """
    return _chat_format(tokenizer, str(tokenizer.chat_template), settings)


@lru_cache(maxsize=8)
def _chat_format(tokenizer: Any, template: str, settings: ChatSettings) -> ChatFormat:
    """The template's text is a key alone: a tokenizer whose template was changed has another format."""
    return ChatFormat(tokenizer, settings=settings)
