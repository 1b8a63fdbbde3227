"""The calls of a language model's network, each on the positions that a cache does not hold yet.

A subclass writes how ids are embedded and how the network is called once. What calls the network a number of times that
depends on the data does so in step with the other ranks: where weights are sharded, each call gathers weights from all
ranks, so every rank makes equally many calls in the same order. Every call of the network comes after a call of the
embeddings; a rank that has nothing to compute makes both with one token.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.interfaces import LanguageModel, LanguageState
from components.language.kv_cache import can_move_rows, prepare_to_move_rows, rearranged
from components.sharding import active_sharding, compute_device


class CallInputs(NamedTuple):
    """What one call of the network reads: N new positions of B rows, after X positions that the cache holds."""

    embeddings: Tensor  # [B, N, E]
    mask: Tensor  # [B, X + N] bool, False at padding
    position_ids: Tensor  # [B, N] int64, 0 at a row's first token that is not padding
    cache: Any  # holds the X positions; the call adds the N
    rows: Tensor  # [n] int64, row of every position whose logits are computed
    columns: Tensor  # [n] int64, its column in ``embeddings``

    def at_column(self, column: int, rows: Tensor) -> "CallInputs":
        """One of the N columns; the columns before it must have been read."""
        here = slice(column, column + 1)
        mask = self.mask[:, : self.mask.shape[1] - self.embeddings.shape[1] + column + 1]
        first = torch.zeros_like(rows)
        return CallInputs(self.embeddings[:, here], mask, self.position_ids[:, here], self.cache, rows, first)


class CachedNetwork(LanguageModel):
    """A language model whose network reads new positions after those of a cache."""

    def __init__(self) -> None:
        super().__init__()
        self._sharding = active_sharding()

    @abstractmethod
    def _embed(self, input_ids: Tensor) -> Tensor:
        """Embed ids, ``[C, K, E]``, in one call of the embeddings. Negative ids may get any embedding."""

    @abstractmethod
    def _call(self, inputs: CallInputs) -> Tensor:
        """Call the network once. Returns the logits of the n positions, ``[n, vocabulary]``."""

    @abstractmethod
    def _new_cache(self) -> Any:
        """An empty cache, a ``transformers.Cache``."""

    def _embedding_weight(self) -> Tensor:
        """A weight with the device and the dtype of the embeddings; under a sharding strategy maybe a part of one."""
        return next(self.parameters())

    @property
    def _device(self) -> torch.device:
        return compute_device(self._embedding_weight())

    def _read_first(self, embeddings: Tensor, lengths: Sequence[int]) -> LanguageState:
        """Read the first ``lengths[b]`` positions of every row ``[B, T, E]`` into a new cache."""
        width, device = max(lengths), embeddings.device
        columns = torch.arange(width) - torch.tensor([width - length for length in lengths])[:, None]
        columns = columns.to(device, non_blocking=True)  # [B, width], negative at the padding on the left
        position_ids, mask = columns.clamp(min=0), columns >= 0
        padded = embeddings.gather(1, position_ids[..., None].expand(-1, -1, embeddings.shape[-1])) * mask[..., None]
        rows, cache = torch.arange(len(lengths), device=device), self._new_cache()
        last = torch.full_like(rows, width - 1)
        logits = self._call(CallInputs(padded, mask, position_ids, cache, rows, last))
        return LanguageState(cache, tuple(lengths), logits)

    def _append(self, state: LanguageState, embeddings: Tensor, counts: Sequence[int]) -> LanguageState:
        """Read the first ``counts[c]`` of N new positions ``[C, N, E]`` of every row; changes the state's cache."""
        num_new, device, cache = embeddings.shape[1], embeddings.device, state.cache
        uneven = len(set(counts)) > 1
        if uneven:
            prepare_to_move_rows(cache)
        before = torch.tensor(state.lengths, device=device)[:, None]
        number = torch.tensor(counts, device=device)[:, None]
        position_ids = before + torch.minimum(torch.arange(num_new, device=device), number - 1)
        mask = torch.cat([real_at_end(state.lengths, device), real_at_start(counts, num_new, device)], dim=1)
        rows = torch.arange(len(counts), device=device)
        logits = self._continue(CallInputs(embeddings, mask, position_ids, cache, rows, number.squeeze(1) - 1))
        lengths = tuple(old + new for old, new in zip(state.lengths, counts, strict=True))
        if uneven:
            shifts = [num_new - count for count in counts]
            cache = rearranged(cache, range(len(counts)), shifts, max(lengths))
        return LanguageState(cache, lengths, logits)

    def _continue(self, inputs: CallInputs | None) -> Tensor:
        """Call the network on any number of positions after those of a cache; None for a rank that has none.

        Layers with a recurrent state read one position a call, because not all models of transformers (5.23: Mamba,
        Jamba, RecurrentGemma) start several from the stored state.
        """
        if can_move_rows(self._new_cache()):
            return self._call(inputs or self._idle_inputs())
        num_new = 0 if inputs is None else inputs.embeddings.shape[1]
        logits: list[Tensor] = []
        order: list[Tensor] = []
        for column in self._rounds(num_new):
            if inputs is None or column is None:
                logits.append(self._call(self._idle_inputs())[:0])
            else:
                order.append((inputs.columns == column).nonzero().squeeze(1))
                logits.append(self._call(inputs.at_column(column, inputs.rows[order[-1]])))
        return torch.cat(logits)[torch.cat(order).argsort()] if order else torch.cat(logits)

    def _score(self, state: LanguageState, answers: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
        """Mean log likelihood of the ids of every option."""
        scores = []
        for row in self._rounds(len(answers)):
            if row is None:
                self._idle_embed()
                self._continue(None)
            else:
                scores.append(self._score_row(state, row, answers[row]))
        return scores

    def _score_row(self, state: LanguageState, row: int, answers: Sequence[Sequence[int]]) -> Tensor:
        """Mean log likelihood of each answer's ids after what one conversation has read."""
        device, counts = state.logits.device, [len(answer) for answer in answers]
        padded = nn.utils.rnn.pad_sequence([torch.tensor(answer) for answer in answers], batch_first=True)
        ids = padded.to(device)  # [options, A]
        # The state predicts the first token, and each token the one after it. At least one column, for equal calls.
        read = ids[:, : max(ids.shape[1] - 1, 1)]
        real = real_at_start([count - 1 for count in counts], read.shape[1], torch.device("cpu"))
        rows, columns = (index.to(device) for index in real.nonzero(as_tuple=True))
        before = real_at_end(state.lengths, device)[row].expand(len(answers), -1)
        inputs = CallInputs(
            self._embed(read),
            torch.cat([before, real.to(device)], dim=1),
            (state.lengths[row] + torch.arange(read.shape[1], device=device)).expand(len(answers), -1),
            rearranged(state.cache, [row] * len(answers)),
            rows,
            columns,
        )
        first = state.logits[row].float().expand(len(answers), -1)
        likelihood = -functional.cross_entropy(first, ids[:, 0], reduction="none")
        others = -functional.cross_entropy(self._continue(inputs).float(), ids[rows, columns + 1], reduction="none")
        return likelihood.index_add(0, rows, others) / torch.tensor(counts, device=device)

    def _largest_of_all_ranks(self, value: int) -> int:
        return value if self._sharding is None else self._sharding.largest_of_all_ranks(value)

    def _rounds(self, number: int) -> Iterator[int | None]:
        """The indices 0 to ``number`` - 1, then None as often as other ranks have more rounds."""
        for index in range(self._largest_of_all_ranks(number)):
            yield index if index < number else None

    def _idle_inputs(self) -> CallInputs:
        """One position, for a call whose result is dropped."""
        zero = torch.zeros(1, dtype=torch.long, device=self._device)
        position = zero[:, None]
        embeddings = torch.zeros(1, 1, self.dim, dtype=self._embedding_weight().dtype, device=self._device)
        return CallInputs(embeddings, position == 0, position, self._new_cache(), zero, zero)

    def _idle_embed(self) -> None:
        """Call the embeddings on one id and drop the result."""
        self._embed(torch.zeros(1, 1, dtype=torch.long, device=self._device))


def real_at_start(counts: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Mask of rows that are padded on the right to ``width``."""
    return (torch.arange(width) < torch.tensor(counts)[:, None]).to(device, non_blocking=True)


def real_at_end(counts: Sequence[int], device: torch.device) -> Tensor:
    """Mask of rows that are padded on the left to the longest."""
    return real_at_start(counts, max(counts), device).flip(1)
