"""Finds out which conversations begin with the same tokens, so that the language model reads these tokens once.

Questions about one video share the system prompt, the visual tokens, and what the chat template writes around them.
How long the shared beginning is, is found by comparing token for token. Two visual tokens are the same if they are the
same row and column of the batch's visual tokens.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import TextInputs, VisualTokens
from components.language.splice import splice

_WORTHWHILE = 0.75
"""Share prefixes only if at most this part of the positions is computed then: it takes a second call."""


class SharedPrefixes(NamedTuple):
    """Which conversations share a beginning. A conversation of a group of one shares all but its last token."""

    group: list[int]  # of each of the C conversations
    first: list[int]  # of every group: its first conversation
    lengths: list[int]  # of every group: tokens of the shared beginning, at least 1


def token_codes(visual: VisualTokens, text: TextInputs) -> Tensor:
    """A number for every position of the spliced sequences that is equal where the tokens are the same.

    Args:
        visual: Visual tokens of the batch.
        text: The conversations.

    Returns:
        ``[C, T]`` int64 on the CPU, padded on the right: ids of text tokens; negative numbers for visual tokens.
    """
    codes = -1 - torch.arange(visual.mask.numel()).view(*visual.mask.shape, 1)
    numbers = VisualTokens(codes, visual.mask, visual.row_index)
    return splice(numbers, text, text.input_ids.cpu()[..., None]).embeddings.squeeze(-1)


def find_shared_prefixes(codes: Tensor, lengths: list[int]) -> SharedPrefixes | None:
    """Group conversations whose tokens are the same up to and including their first visual token.

    Args:
        codes: See ``token_codes``.
        lengths: Tokens of every conversation, at least 2.

    Returns:
        The groups; None if reading their beginnings once saves too little.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths):
        is_visual = (codes[row, :length] < 0).tolist()
        key = tuple(codes[row, : is_visual.index(True) + 1].tolist()) if True in is_visual else row
        members[key].append(row)
    group = [0] * len(lengths)
    prefix_lengths = []
    for number, rows in enumerate(members.values()):
        longest = min(lengths[row] for row in rows) - 1
        is_shared = (codes[rows, :longest] == codes[rows[:1], :longest]).all(dim=0)
        prefix_lengths.append(int(is_shared.cumprod(dim=0).sum()))
        for row in rows:
            group[row] = number
    found = SharedPrefixes(group, [rows[0] for rows in members.values()], prefix_lengths)
    return found if _num_positions(found, lengths) <= _WORTHWHILE * len(lengths) * max(lengths) else None


def _num_positions(shared: SharedPrefixes, lengths: list[int]) -> int:
    """Positions that are computed, with padding, if prefixes are read once."""
    longest_rest = max(length - shared.lengths[group] for length, group in zip(lengths, shared.group, strict=True))
    return len(shared.first) * max(shared.lengths) + len(lengths) * longest_rest
