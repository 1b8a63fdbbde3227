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
from components.language.chat_template import VIDEO_MARK, ChatError, ChatSettings, ChatTemplate, Turn
from components.language.chat_text import ANSWER, OTHER_QUESTION, QUESTION, ConversationText, Piece, PlainTurn


class EncodedTurns(NamedTuple):
    """One conversation as the language model reads it."""

    input_ids: Tensor  # [k] int64, VIDEO_PLACEHOLDER where the visual tokens belong
    labels: Tensor  # [k] int64, IGNORED_LABEL outside the assistant's turns


class ChatFormat:
    """Turns conversations into token ids with labels, questions into prompts, and generated ids back into answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        more_stop_ids: Ids that end a generation besides the template's own, such as those of a generation config.
        settings: See ``ChatSettings``.

    Attributes:
        tokenizer: The tokenizer.
        settings: What the text depends on besides the template.
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
        settings: ChatSettings = ChatSettings(),  # noqa: B008  frozen
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        controls = {*special.values(), *tokenizer.all_special_tokens}
        template = ChatTemplate(tokenizer, settings, controls)
        written = {
            index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if template.writes(str(token))
        }
        self._control_ids = {*special, *written, *tokenizer.all_special_ids}
        if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            self._control_ids.discard(tokenizer.unk_token_id)  # it stands for words
        self._text = ConversationText(template)
        self._pieces = PieceTokenizer(tokenizer, self._control_ids)
        self._text_before_answer = self._pieces.text_before(self._text.header.rstrip(" "))
        *word_ids, self.end_of_turn_id = self.answer_ids(ANSWER.content)
        self._check_read_back(word_ids)
        ends = {self.end_of_turn_id, self._end_of_earlier_turn()}
        if not ends.isdisjoint(written.keys() - special.keys()):
            # They are not marked as special, and still must not end a turn where somebody types them.
            controls |= {written[index] for index in ends & written.keys()}
            self._text = ConversationText(ChatTemplate(tokenizer, settings, controls))
        eos_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids = sorted({*ends, *eos_ids, *more_stop_ids})
        self.pad_id: int = self.end_of_turn_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def encode(self, turns: Sequence[Turn]) -> EncodedTurns:
        """Ids and labels of a conversation that ends with an answer.

        Labelled are the assistant's turns, from the first token of the answer to the special token that ends it.

        Args:
            turns: The conversation; ``<video>`` in a user turn marks the visual tokens' place.

        Raises:
            ChatError: The template refuses these turns, or does not show them as they are.
        """
        first, *others = self._text.pieces(turns)
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
            asked = [PlainTurn("user", asked if VIDEO_MARK in asked else f"{VIDEO_MARK}\n{asked}")]
        first, *others = self._text.pieces(asked)
        ids = self._pieces.beginning(first.text)
        for piece in others:
            ids += self._pieces.continuation(piece.text, self._text_before_answer).ids
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, up to and including the token that ends the turn; at least one.

        Raises:
            ChatError: The template does not show the answer as it is, or ends the turn without a special token.
        """
        _, piece = self._text.pieces([QUESTION, PlainTurn("assistant", answer)])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        return read.ids[: self._end_of_answer(piece, read)[0] + 1]

    def decode(self, generated_ids: Sequence[int]) -> str:
        """Text of a generated answer: up to the first id that stops, without special tokens, stripped."""
        stop = next((place for place, token in enumerate(generated_ids) if token in self.stop_ids), len(generated_ids))
        text: str = self.tokenizer.decode(generated_ids[:stop], skip_special_tokens=True)
        return text.strip()

    def _end_of_answer(self, piece: Piece, read: PieceIds) -> tuple[int, int]:
        """The token that ends the answer with which a piece begins: its place, and its first character."""
        for place, start in read.controls:
            if start >= piece.answer_length:
                return place, start
        raise ChatError(
            f"{self._text.source} ends an assistant's turn without a special token: {piece.text!r}. Generation "
            f"could not stop; let the template write one, such as {self.tokenizer.eos_token or '<|im_end|>'!r}, after "
            "every answer"
        )

    def _end_of_earlier_turn(self) -> int:
        """The special token that ends an answer which another question follows."""
        _, piece = self._text.pieces([QUESTION, ANSWER, OTHER_QUESTION])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        place, start = self._end_of_answer(piece, read)
        if start >= piece.text.find(OTHER_QUESTION.content, piece.answer_length):
            raise ChatError(
                f"{self._text.source} ends an answer without a special token where another question follows: "
                f"{piece.text!r}; let the template write one after every answer"
            )
        return read.ids[place]

    def _check_read_back(self, word_ids: Sequence[int]) -> None:
        read_back = self.tokenizer.decode(word_ids).strip()
        if read_back != ANSWER.content and self.tokenizer.unk_token_id not in word_ids:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path!r}, loaded as {type(self.tokenizer).__name__}, reads "
                f"{ANSWER.content!r} as {read_back!r}: its tokenizer.json is of another kind than transformers takes "
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
