"""Joins the visual streams of a medium, and the words between them, to what the language model sees at ``<video>``.

A *visual prompt* names the streams in their order, such as ``"A summary:<memory>Some frames:<frames>"``. The words
before a stream belong to it: where the stream is left out, they are too. Words after the last stream always stay.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import TEXT_ONLY, LanguageModel, TokenPlaces, VisualTokens

_MARK = re.compile(r"<([a-z][a-z0-9_]*)>")


class _Piece(NamedTuple):
    """Words and the stream that follows them; the last piece has no stream."""

    words: str
    stream: str | None


class VisualPrompt:
    """The order of the visual streams and the words between them.

    Args:
        template: Words and one ``<name>`` for every stream.
        streams: Names of the model's readers.

    Attributes:
        template: See above.
        has_words: Whether there are words.

    Raises:
        ValueError: The template names a stream that does not exist, one twice, or not all.
    """

    def __init__(self, template: str, streams: Collection[str]) -> None:
        named = _MARK.findall(template)
        if sorted(named) != sorted(streams):
            raise ValueError(
                f"visual_prompt is {template!r}, but the model's readers are {', '.join(sorted(streams))}: name every "
                f"one of them once, such as {''.join(f'<{name}>' for name in streams)!r}"
            )
        *parts, tail = _MARK.split(template)
        self.template = template
        self._pieces = [_Piece(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        if tail:
            self._pieces.append(_Piece(tail, None))
        self.has_words = any(piece.words for piece in self._pieces)

    def count_words(self, language_model: LanguageModel, left_out: Collection[str] = ()) -> int:
        """Tokens of the words, without those of streams that are left out."""
        ids = zip(self._pieces, self._word_ids(language_model), strict=True)
        return sum(len(words) for piece, words in ids if piece.stream not in left_out)

    def embed_words(self, language_model: LanguageModel) -> list[Tensor]:
        """Embed the words of every piece, each ``[number of tokens, E]``, in one call; an empty list without words."""
        if not self.has_words:
            return []
        ids = self._word_ids(language_model)
        # The dtype matters where words, such as a space, have no token.
        indices = torch.tensor([[index for piece in ids for index in piece]], dtype=torch.int64)
        embedded = language_model.embed(indices)[0]
        return list(embedded.split([len(piece) for piece in ids]))

    def _word_ids(self, language_model: LanguageModel) -> list[list[int]]:
        return [language_model.word_ids(piece.words) if piece.words else [] for piece in self._pieces]

    def join(
        self,
        streams: Mapping[str, VisualTokens],
        words: Sequence[Tensor],
        video_index: Tensor,
        left_out: Collection[str] = (),
    ) -> VisualTokens:
        """Join streams and words.

        Args:
            streams: What every reader gives, by name.
            words: What ``embed_words`` gives.
            video_index: See ``TextInputs``, ``[C, M]``.
            left_out: Streams to leave out, with their words.

        Returns:
            Rows of a video each; if a reader has read the questions, rows of a medium of a conversation each.

        Raises:
            ValueError: No stream is left.
        """
        shown = [piece for piece in self._pieces if piece.stream is not None and piece.stream not in left_out]
        if not shown:
            raise ValueError(f"all streams of {self.template!r} are left out, so the language model would see nothing")
        if not self.has_words and len(shown) == 1 and shown[0].stream is not None:
            return streams[shown[0].stream]
        rows = _common_rows(streams, video_index)
        num_rows = len(next(iter(rows.values())).tokens)
        parts: list[VisualTokens] = []
        for number, piece in enumerate(self._pieces):
            if piece.stream in left_out:
                continue
            if piece.words:
                parts.append(_words_of_every_row(words[number], num_rows))
            if piece.stream is not None:
                parts.append(rows[piece.stream])
        return _concatenated(parts, next(iter(rows.values())).row_index)


def _common_rows(streams: Mapping[str, VisualTokens], video_index: Tensor) -> Mapping[str, VisualTokens]:
    """All streams with a row for every medium of every conversation, if one of them has these."""
    if all(stream.row_index is None for stream in streams.values()):
        return streams
    video = video_index.clamp(min=0).flatten()  # [C * M]; a row of TEXT_ONLY is one that no token shows
    own_rows = torch.arange(video_index.numel()).view(video_index.shape)
    row_index = own_rows.masked_fill(video_index == TEXT_ONLY, TEXT_ONLY)
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


def _words_of_every_row(embeddings: Tensor, num_rows: int) -> VisualTokens:
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
