"""Converts conversations to token ids: for training, for prompts, and for answer options. No other code does.

A *prompt* is the text before an answer. It includes what the template always writes at the beginning of an answer (the
empty think block of Qwen3, the channel of gpt-oss). It has no labels. Spaces at its end belong to the answer, because
tokenizers encode a space and the next word as one token.

The prompt of a turn is the same in training and in generation, for every turn. Some templates render a turn differently
when other turns follow (Qwen3 drops the think block; Mistral v0.3 shows the system text only in the last question).
Therefore each answer's prompt is rendered separately, and a conversation is the sequence of what is new in each prompt.

Text is split before every answer, and both sides are tokenized separately. Otherwise the first letters of an answer
could change the last ids of its prompt.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.language.chat_pieces import PieceIds, PieceTokenizer
from components.language.chat_template import VIDEO_MARK, ChatError, ChatSettings, ChatTemplate, Turn
from components.language.chat_text import ANSWER, OTHER_QUESTION, QUESTION, ConversationText, Piece, PlainTurn


class EncodedTurns(NamedTuple):
    """Token ids and labels of one conversation."""

    input_ids: Tensor  # [k] int64, VIDEO_PLACEHOLDER where visual tokens are inserted
    labels: Tensor  # [k] int64, IGNORED_LABEL outside the assistant's turns


class ChatFormat:
    """Converts conversations to token ids with labels, questions to prompts, and generated ids to text.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        more_stop_ids: Ids that end a generation in addition to the template's, such as those of a generation config.
        settings: See ``ChatSettings``.

    Attributes:
        tokenizer: The tokenizer.
        settings: See ``ChatSettings``.
        end_of_turn_id: The first special token that the template writes after the last answer.
        stop_ids: All ids that end a generation.
        pad_id: Id for padding.

    Raises:
        ValueError: There is no chat template, or it cannot be used: it changes the text of an answer, the text before
            an answer depends on the answer or is missing from the prompt, or no special token ends an assistant's turn
            (the model could not learn to stop). Or the tokenizer loses letters of plain text.
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
            self._control_ids.discard(tokenizer.unk_token_id)  # it replaces unknown words of the text
        self._text = ConversationText(template)
        self._pieces = PieceTokenizer(tokenizer, self._control_ids)
        self._text_before_answer = self._pieces.text_before(self._text.header.rstrip(" "))
        *word_ids, self.end_of_turn_id = self.answer_ids(ANSWER.content)
        self._check_read_back(word_ids)
        ends = {self.end_of_turn_id, self._end_of_earlier_turn()}
        if not ends.isdisjoint(written.keys() - special.keys()):
            # These tokens end a turn although they are not marked as special: typed in a text, they must not end one.
            controls |= {written[index] for index in ends & written.keys()}
            self._text = ConversationText(ChatTemplate(tokenizer, settings, controls))
        eos_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids = sorted({*ends, *eos_ids, *more_stop_ids})
        self.pad_id: int = self.end_of_turn_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def encode(self, turns: Sequence[Turn]) -> EncodedTurns:
        """Convert a conversation that ends with an answer to ids and labels.

        The tokens of every answer and the special token that ends it are labelled.

        Args:
            turns: The conversation; visual tokens are inserted at ``<video>`` in a user turn.

        Raises:
            ChatError: The template cannot render these turns, or changes their text.
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
        """Convert a question to the ids of its prompt: the ids that ``encode`` returns before the answer's labels.

        Args:
            asked: A question about a video; without ``<video>`` in it, the visual tokens are inserted on a line before
                it. Or the turns so far, the last of which is the user's.

        Returns:
            The ids, VIDEO_PLACEHOLDER where visual tokens are inserted.

        Raises:
            ChatError: The template cannot render these turns, or a question has several ``<video>``.
        """
        if isinstance(asked, str):
            if asked.count(VIDEO_MARK) > 1:
                raise ChatError(
                    f"in {asked!r} {VIDEO_MARK} occurs {asked.count(VIDEO_MARK)} times; visual tokens need exactly one"
                )
            # The same text as in converted training data.
            asked = [PlainTurn("user", asked if VIDEO_MARK in asked else f"{VIDEO_MARK}\n{asked}")]
        first, *others = self._text.pieces(asked)
        ids = self._pieces.beginning(first.text)
        for piece in others:
            ids += self._pieces.continuation(piece.text, self._text_before_answer).ids
        return ids

    def next_prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Ids to read after the last answer's own: the token that ends it, and the prompt of the question after it.

        So the ids of the prompt before, those of the answer and these are the ids that ``encode`` returns for the whole
        conversation.

        Args:
            turns: The conversation so far: at least one answer, then the new question. The answer's words are not part
                of the ids.

        Raises:
            ChatError: The template cannot render these turns, or they do not end with a question after an answer.
        """
        pieces = self._text.pieces(turns) if turns else []
        if len(pieces) < 2 or turns[-1].role == "assistant":
            raise ChatError("the next prompt needs turns that end with a question after an answer; see prompt_ids")
        piece = pieces[-1]
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        return read.ids[self._end_of_answer(piece, read)[0] :]

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, including the token that ends the turn.

        Raises:
            ChatError: The template changes the answer's text, or ends the turn without a special token.
        """
        _, piece = self._text.pieces([QUESTION, PlainTurn("assistant", answer)])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        return read.ids[: self._end_of_answer(piece, read)[0] + 1]

    def decode(self, generated_ids: Sequence[int]) -> str:
        """Text of a generated answer up to its first stop id, without special tokens and surrounding white space."""
        stop = next((index for index, token in enumerate(generated_ids) if token in self.stop_ids), len(generated_ids))
        text: str = self.tokenizer.decode(generated_ids[:stop], skip_special_tokens=True)
        return text.strip()

    def question_of(self, prompt_ids: Sequence[int]) -> str:
        """Words of the first question that shows a medium: those after its first medium, or before it if none follow.

        Args:
            prompt_ids: What ``prompt_ids`` returns, or the beginning of what ``encode`` does.

        Returns:
            The words; nothing where no medium is shown.
        """
        ids = list(prompt_ids)
        if VIDEO_PLACEHOLDER not in ids:
            return ""
        first = ids.index(VIDEO_PLACEHOLDER)
        after = self._texts_between_controls(ids[first:])[0].partition(self._text.header.strip())[0].strip()
        return after or self._without_role(self._texts_between_controls(ids[:first])[-1])

    def _without_role(self, text: str) -> str:
        """Text of a question without what the template writes before it, such as the name of the role."""
        example = self._texts_between_controls(self._pieces.beginning(self._text.pieces([QUESTION])[0].text))
        lead = next(each for each in example if QUESTION.content in each).partition(QUESTION.content)[0].split()
        return text.partition(lead[-1])[2].strip() if lead and lead[-1] in text else text

    def _texts_between_controls(self, ids: Sequence[int]) -> list[str]:
        """The texts between control tokens, without media and surrounding white space; at least one."""
        runs: list[list[int]] = [[]]
        for each in ids:
            if each in self._control_ids:
                runs.append([])
            elif each != VIDEO_PLACEHOLDER:
                runs[-1].append(each)
        return [self.tokenizer.decode(run).strip() for run in runs]

    def _end_of_answer(self, piece: Piece, read: PieceIds) -> tuple[int, int]:
        """The token that ends the answer at the beginning of a piece: its index in the ids, and in the text."""
        for index, start in read.controls:
            if start >= piece.answer_length:
                return index, start
        raise ChatError(
            f"{self._text.source} ends an assistant's turn without a special token: {piece.text!r}. Generation "
            f"could not stop; let the template write one, such as {self.tokenizer.eos_token or '<|im_end|>'!r}, after "
            "every answer"
        )

    def _end_of_earlier_turn(self) -> int:
        """The special token that ends an answer when another question follows."""
        _, piece = self._text.pieces([QUESTION, ANSWER, OTHER_QUESTION])
        read = self._pieces.continuation(piece.text, self._text_before_answer)
        index, start = self._end_of_answer(piece, read)
        if start >= piece.text.find(OTHER_QUESTION.content, piece.answer_length):
            raise ChatError(
                f"{self._text.source} ends an answer without a special token where another question follows: "
                f"{piece.text!r}; let the template write one after every answer"
            )
        return read.ids[index]

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
    """The chat format of a tokenizer; cached, because constructing one renders the template several times.

    Raises:
        ValueError: See ``ChatFormat``.
    """
    return _chat_format(tokenizer, str(tokenizer.chat_template), settings)


@lru_cache(maxsize=8)
def _chat_format(tokenizer: Any, template: str, settings: ChatSettings) -> ChatFormat:
    """``template`` is only a cache key: if a tokenizer's template changes, it gets another format."""
    return ChatFormat(tokenizer, settings=settings)
