"""Joins the visual streams of a medium, and the words between them, to what the language model sees at ``<video>``.

A *visual prompt* names the streams in their order, such as ``"A summary:<memory><newline>Some frames:<frames>"``. The
words before a stream and a ``<newline>`` right after it belong to it: where the stream is left out, they are too. Words
after the last stream always stay.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import LanguageModel, TokenPlaces, VisualTokens
from components.media_rows import rows_of_media

NEWLINE = "newline"
"""Mark of the learned vector that ends a line; no stream may have its name."""

_MARK = re.compile(r"<([a-z][a-z0-9_]*)>")
_ENDS_LINE = re.compile(rf"(<[a-z][a-z0-9_]*>)<{NEWLINE}>")


class _Piece(NamedTuple):
    """Words, the stream that follows them, and whether a newline follows the stream; the last piece has no stream."""

    words: str
    stream: str | None
    ends_line: bool


class PieceTokens(NamedTuple):
    """What is shown before and after the stream of a piece."""

    words: Tensor  # [number of tokens, E]
    newline: Tensor | None  # [1, E]


class VisualPrompt:
    """The order of the visual streams and the words between them.

    Args:
        template: Words and one ``<name>`` for every stream, which ``<newline>`` may follow.
        streams: Names of the model's readers.

    Attributes:
        template: See above.
        has_newlines: Whether a newline follows a stream.

    Raises:
        ValueError: The template names a stream that does not exist, one twice, or not all; or a newline does not follow
            a stream.
    """

    def __init__(self, template: str, streams: Collection[str]) -> None:
        ending = {_MARK.findall(match)[0] for match in _ENDS_LINE.findall(template)}
        plain = _ENDS_LINE.sub(r"\1", template)
        named = _MARK.findall(plain)
        if NEWLINE in named:
            raise ValueError(
                f"visual_prompt is {template!r}, but <{NEWLINE}> may only follow a stream, once, such as "
                f"'<{next(iter(streams))}><{NEWLINE}>'"
            )
        if sorted(named) != sorted(streams):
            raise ValueError(
                f"visual_prompt is {template!r}, but the model's readers are {', '.join(sorted(streams))}: name every "
                f"one of them once, such as {''.join(f'<{name}>' for name in streams)!r}"
            )
        *parts, tail = _MARK.split(plain)
        self.template = template
        pairs = zip(parts[::2], parts[1::2], strict=True)
        self._pieces = [_Piece(words, stream, stream in ending) for words, stream in pairs]
        if tail:
            self._pieces.append(_Piece(tail, None, False))
        self.has_newlines = bool(ending)
        self._is_plain = not ending and not any(piece.words for piece in self._pieces)

    def count_words(self, language_model: LanguageModel, left_out: Collection[str] = ()) -> int:
        """Tokens of the words and newlines, without those of streams that are left out."""
        ids = zip(self._pieces, self._word_ids(language_model), strict=True)
        return sum(len(words) + piece.ends_line for piece, words in ids if piece.stream not in left_out)

    def embed_words(self, language_model: LanguageModel, newline: Tensor | None = None) -> list[PieceTokens]:
        """Embed the words of every piece in one call; an empty list without words and newlines.

        Args:
            language_model: Its embeddings are used.
            newline: The learned vector, ``[E]``; needed where ``has_newlines``.
        """
        if self._is_plain:
            return []
        ids = self._word_ids(language_model)
        # The dtype matters where words, such as a space, have no token.
        indices = torch.tensor([[index for piece in ids for index in piece]], dtype=torch.int64)
        words = language_model.embed(indices)[0].split([len(piece) for piece in ids])
        line = None if newline is None else newline[None]
        pieces = zip(self._pieces, words, strict=True)
        return [PieceTokens(own, line if piece.ends_line else None) for piece, own in pieces]

    def _word_ids(self, language_model: LanguageModel) -> list[list[int]]:
        return [language_model.word_ids(piece.words) if piece.words else [] for piece in self._pieces]

    def join(
        self,
        streams: Mapping[str, VisualTokens],
        words: Sequence[PieceTokens],
        video_index: Tensor,
        left_out: Collection[str] = (),
    ) -> VisualTokens:
        """Join streams and words.

        Args:
            streams: What every reader gives, by name.
            words: What ``embed_words`` gives.
            video_index: See ``TextInputs``, ``[C, M]``.
            left_out: Streams to leave out, with their words and newlines.

        Returns:
            Rows of a video each; if a reader has read the questions, rows of a medium of a conversation each.

        Raises:
            ValueError: No stream is left.
        """
        shown = [piece for piece in self._pieces if piece.stream is not None and piece.stream not in left_out]
        if not shown:
            raise ValueError(f"all streams of {self.template!r} are left out, so the language model would see nothing")
        if self._is_plain and len(shown) == 1 and shown[0].stream is not None:
            return streams[shown[0].stream]
        rows = _common_rows(streams, video_index)
        num_rows = len(next(iter(rows.values())).tokens)
        parts: list[VisualTokens] = []
        for number, piece in enumerate(self._pieces):
            if piece.stream in left_out:
                continue
            if piece.words:
                parts.append(_in_every_row(words[number].words, num_rows))
            if piece.stream is not None:
                parts.append(rows[piece.stream])
            newline = words[number].newline if piece.ends_line else None
            if newline is not None:
                parts.append(_in_every_row(newline, num_rows))
        return _concatenated(parts, next(iter(rows.values())).row_index)


def check_newline(prompt: VisualPrompt, *, has_newline: bool, has_layout: bool) -> None:
    """Check that a model has the learned newline vector if and only if something shows it.

    Args:
        prompt: The model's visual prompt.
        has_newline: Whether the model has the vector.
        has_layout: Whether it has a layout of pictures, which shows it too.

    Raises:
        ValueError: It is missing, or nothing shows it.
    """
    if has_newline and not prompt.has_newlines and not has_layout:
        raise ValueError(
            f"the model has a newline vector that nothing shows: write <{NEWLINE}> after a stream of visual_prompt, "
            "set picture_layout, or leave newline out"
        )
    if not has_newline and (prompt.has_newlines or has_layout):
        what = f"<{NEWLINE}> in visual_prompt" if prompt.has_newlines else "picture_layout"
        raise ValueError(f"{what} shows a learned vector, which the model does not have: set model.newline")


def _common_rows(streams: Mapping[str, VisualTokens], video_index: Tensor) -> Mapping[str, VisualTokens]:
    """All streams with a row for every medium of every conversation, if one of them has these."""
    if all(stream.row_index is None for stream in streams.values()):
        return streams
    video = video_index.clamp(min=0).flatten()  # [C * M]; a row of TEXT_ONLY is one that no token shows
    row_index = rows_of_media(video_index)
    return {name: _taken(stream, video, row_index) for name, stream in streams.items()}


def _taken(stream: VisualTokens, video: Tensor, row_index: Tensor) -> VisualTokens:
    if stream.row_index is not None:
        return stream
    places = stream.places
    return VisualTokens(
        stream.tokens[video.to(stream.tokens.device, non_blocking=True)],
        stream.mask[video.to(stream.mask.device, non_blocking=True)],
        row_index,
        None if places is None else TokenPlaces(*(each[video.to(each.device, non_blocking=True)] for each in places)),
    )


def _in_every_row(embeddings: Tensor, num_rows: int) -> VisualTokens:
    tokens = embeddings.expand(num_rows, -1, -1)
    return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def _concatenated(parts: Sequence[VisualTokens], row_index: Tensor | None) -> VisualTokens:
    """The parts one after the other; the mask is on the host if all of theirs are."""
    device = parts[0].tokens.device
    dtype = reduce(torch.promote_types, [part.tokens.dtype for part in parts])  # so that no stream loses precision
    tokens = torch.cat([part.tokens.to(dtype) for part in parts], dim=1)
    on_host = all(part.mask.device.type == "cpu" for part in parts)
    masks = [part.mask if on_host else part.mask.to(device, non_blocking=True) for part in parts]
    places = None
    if any(part.places is not None for part in parts):
        of_parts = [part.places or _no_places(part) for part in parts]
        places = TokenPlaces(
            *(torch.cat([each.to(device) for each in field], dim=1) for field in zip(*of_parts, strict=True))
        )
    return VisualTokens(tokens, torch.cat(masks, dim=1), row_index, places)


def _no_places(part: VisualTokens) -> TokenPlaces:
    nowhere = torch.full(part.tokens.shape[:2], -1, device=part.tokens.device)
    return TokenPlaces(nowhere, nowhere, nowhere)
