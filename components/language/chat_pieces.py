"""Tokenizes the pieces of a text separately, each with the ids that it has as part of the text."""

import re
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from components.interfaces import VIDEO_PLACEHOLDER
from components.language.chat_template import CUT, VIDEO_MARK, ChatError

_PROBE = "answer"
_LINE_BREAK = "\n"
_INNER_BORDERS = re.compile(f"({CUT}|{re.escape(VIDEO_MARK)})")


class PieceIds(NamedTuple):
    """Token ids of a piece."""

    ids: list[int]
    controls: list[tuple[int, int]]  # of every control token: index in ids, index of its first character in the piece


class PieceTokenizer:
    """Tokenizes texts that are split at known positions.

    Many tokenizers (LLaMA's family) add a space at the beginning of every text, which is wrong for a piece in the
    middle of a text. Such a piece is tokenized after a short text whose ids are then dropped.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        control_ids: Ids of tokens with a meaning to the chat template, such as ``<|im_end|>``.
    """

    def __init__(self, tokenizer: Any, control_ids: AbstractSet[int]) -> None:
        self._name = tokenizer.name_or_path
        self._backend = tokenizer.backend_tokenizer
        self._begin: tuple[str, int] | None = None
        if tokenizer.bos_token:
            self._begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        self._control_ids = control_ids
        self._unknown_id = tokenizer.unk_token_id
        self._mid_text = ""
        if self._read(_PROBE, "").ids != self._read(_PROBE, _LINE_BREAK).ids:
            self._mid_text = _LINE_BREAK

    def beginning(self, text: str) -> list[int]:
        """Ids of the first piece of a text. No special tokens are added, because the template has written them.

        A begin-of-sequence token is removed first: LLaMA's tokenizer adds its leading space to the text after it only
        if that is tokenized separately.
        """
        if self._begin is None or not text.startswith(self._begin[0]):
            return self.continuation(text, "").ids
        begin, index = self._begin
        return [index, *self.continuation(text[len(begin) :], "").ids]

    def continuation(self, text: str, before: str) -> PieceIds:
        """Ids of a piece in the middle of a text, with VIDEO_PLACEHOLDER for the video mark.

        Text after a video mark is tokenized like the beginning of a text.

        Args:
            text: The piece.
            before: The result of ``text_before`` for the preceding text.
        """
        first, *others = _INNER_BORDERS.split(text)
        ids, controls = self._read(first, before)
        position = len(first)
        for border, part in zip(others[::2], others[1::2], strict=True):
            if border == VIDEO_MARK:
                ids.append(VIDEO_PLACEHOLDER)
                position += len(VIDEO_MARK)
            read = self._read(part, self._mid_text if border == CUT else "")
            controls += [(len(ids) + index, position + start) for index, start in read.controls]
            ids += read.ids
            position += len(part)
        return PieceIds(ids, controls)

    def text_before(self, text: str) -> str:
        """Text to tokenize before a piece that follows ``text``: the control token at its end, or a line break."""
        ids, controls = self._read(text, "")
        return text[controls[-1][1] :] if controls and controls[-1][0] == len(ids) - 1 else self._mid_text

    def _read(self, text: str, before: str) -> PieceIds:
        """Tokenize ``before + text`` and return the ids of ``text``."""
        encoding = self._encode(before + text)
        ids: list[int] = encoding.ids
        length = len(before)
        dropped = 0
        while length and dropped < len(ids):
            start, end = encoding.token_to_chars(dropped)
            if start >= length:
                break
            # A control token may extend into the text: some include the spaces after them. An unknown letter may form
            # one unknown token with the line break before it.
            if end > length and ids[dropped] not in self._control_ids:
                if ids[dropped] == self._unknown_id:
                    break
                raise ChatError(
                    f"the tokenizer of {self._name!r} reads a line break and {text[:20]!r} as one token, so the text "
                    "cannot be split between them; remove the white space at the beginning of the text"
                )
            dropped += 1
        ids = ids[dropped:]
        found = [index for index, token in enumerate(ids) if token in self._control_ids]
        return PieceIds(ids, [(index, encoding.token_to_chars(dropped + index)[0] - length) for index in found])

    def _encode(self, text: str) -> Any:
        """Encode without truncation and padding, which earlier calls through transformers may have left switched on."""
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        if self._backend.encode_special_tokens:
            self._backend.encode_special_tokens = False
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except TypeError as error:  # what it raises for text that is no Unicode
            raise ChatError(
                "the text has half a character (a lone surrogate), which no tokenizer reads; remove it"
            ) from error
