"""From pieces of a text to token ids: every piece gets the ids that it has behind the text in front of it."""

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
    controls: list[tuple[int, int]]  # of the control tokens: place in ids, first character in the piece


class PieceTokenizer:
    """Tokenizes texts that are cut at known places.

    A piece that continues a text must not be read as the beginning of one: many tokenizers of LLaMA's family put a
    blank in front of every text. Such a piece is tokenized behind a bit of text whose ids are dropped.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        control_ids: Ids of the tokens with which templates structure a text.
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
        """Ids of a piece that begins a text.

        The template has written the special tokens, so none is added. The token that begins a text is cut off first:
        to LLaMA's tokenizer what follows it begins the text and gets a blank in front, but reads as the middle of one
        if both are tokenized together.
        """
        if self._begin is None or not text.startswith(self._begin[0]):
            return self.continuation(text, "").ids
        begin, index = self._begin
        return [index, *self.continuation(text[len(begin) :], "").ids]

    def continuation(self, text: str, before: str) -> PieceIds:
        """Ids of a piece that follows another, VIDEO_PLACEHOLDER at the video mark. Behind that mark a text begins.

        Args:
            text: The piece.
            before: What ``text_before`` gives for the text in front.
        """
        first, *others = _INNER_BORDERS.split(text)
        ids, controls = self._read(first, before)
        position = len(first)
        for border, part in zip(others[::2], others[1::2], strict=True):
            if border == VIDEO_MARK:
                ids.append(VIDEO_PLACEHOLDER)
                position += len(VIDEO_MARK)
            read = self._read(part, self._mid_text if border == CUT else "")
            controls += [(len(ids) + place, position + start) for place, start in read.controls]
            ids += read.ids
            position += len(part)
        return PieceIds(ids, controls)

    def text_before(self, text: str) -> str:
        """What is put before a piece that follows ``text``: the control token that it ends with, or a line break."""
        ids, controls = self._read(text, "")
        return text[controls[-1][1] :] if controls and controls[-1][0] == len(ids) - 1 else self._mid_text

    def _read(self, text: str, before: str) -> PieceIds:
        """Ids of a text without those of the text before it."""
        encoding = self._encode(before + text)
        ids: list[int] = encoding.ids
        length = len(before)
        dropped = 0
        while length and dropped < len(ids):
            start, end = encoding.token_to_chars(dropped)
            if start >= length:
                break
            # A control token may reach into the text: some take the blanks behind them along. Letters that the
            # tokenizer does not know may be one token with a line break that it does not know.
            if end > length and ids[dropped] not in self._control_ids:
                if ids[dropped] == self._unknown_id:
                    break
                raise ChatError(
                    f"the tokenizer of {self._name!r} reads a line break and {text[:20]!r} as one token, so the text "
                    "cannot be cut between them; remove white space where the text begins"
                )
            dropped += 1
        ids = ids[dropped:]
        found = [place for place, index in enumerate(ids) if index in self._control_ids]
        return PieceIds(ids, [(place, encoding.token_to_chars(dropped + place)[0] - length) for place in found])

    def _encode(self, text: str) -> Any:
        """Encode as transformers would, which sets these switches before every call and leaves them set."""
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        if self._backend.encode_special_tokens:
            self._backend.encode_special_tokens = False
        return self._backend.encode(text, add_special_tokens=False)
