"""Writes every conversation's visual tokens where its placeholder stands. Pure functions, without loops over rows.

One function finds the placeholders and checks them, the other writes. To it everything is a length: a placeholder
takes as many positions as its video has visual tokens, a real text token takes one, padding takes none. Running sums
of the lengths say where everything belongs, so videos, images, plain text and any padding are the same case.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs, VisualTokens


class SplicedInputs(NamedTuple):
    """What the language model reads: text and visual tokens in one sequence of T positions."""

    embeddings: Tensor  # [C, T, E], zero where masked
    mask: Tensor  # [C, T] bool
    labels: Tensor  # [C, T] int64, IGNORED_LABEL at visual tokens and where masked
    position_ids: Tensor  # [C, T] int64, 0 at the first real token of a row


def find_placeholders(text: TextInputs, num_videos: int) -> Tensor:
    """Find where the visual tokens of every conversation belong, and check that text and videos fit together.

    Args:
        text: The conversations.
        num_videos: Videos of the batch, V.

    Returns:
        ``[C, K]`` bool, True at the one placeholder of every conversation that has a video.

    Raises:
        ValueError: A conversation with a video has not exactly one placeholder, one without has some, or
            ``video_index`` names no video of the batch. Text and video out of step train a model on the wrong pictures
            without any other sign.
    """
    placeholder = (text.input_ids == VIDEO_PLACEHOLDER) & text.text_mask  # [C, K]
    counts = placeholder.sum(dim=1)
    expected = (text.video_index != TEXT_ONLY).to(counts.dtype)
    known = (text.video_index >= TEXT_ONLY) & (text.video_index < num_videos)
    if bool(((counts == expected) & known).all()):
        return placeholder
    wrong = [
        f"conversation {row}: {got} placeholder(s), {want} expected (video_index {video})"
        for row, (got, want, video, fits) in enumerate(
            zip(counts.tolist(), expected.tolist(), text.video_index.tolist(), known.tolist(), strict=True)
        )
        if got != want or not fits
    ]
    raise ValueError(
        f"text and videos are out of step, which would silently train on the wrong pictures: {'; '.join(wrong)}. "
        f"The batch has {num_videos} video(s); a conversation about one has exactly one placeholder "
        f"(id {VIDEO_PLACEHOLDER}), a text-only one (video_index {TEXT_ONLY}) has none."
    )


def splice(visual: VisualTokens, text: TextInputs, text_embeddings: Tensor, *, pad_left: bool = False) -> SplicedInputs:
    """Put visual tokens at the placeholders.

    Several conversations may share a video. Masked visual tokens are dropped, so videos may have different numbers of
    them. Differentiable to ``text_embeddings`` and to ``visual.tokens``, which stay in the graph even if unused.

    Args:
        visual: Visual tokens of the batch's videos.
        text: The conversations; one without visual tokens has ``video_index`` TEXT_ONLY.
        text_embeddings: Embedded ``text.input_ids``, ``[C, K, E]``; not read at placeholders and padding.
        pad_left: Pad on the left, as generating needs, instead of on the right.

    Returns:
        The joined sequences, as long as the longest of them; same dtype as ``text_embeddings``.

    Raises:
        ValueError: See ``find_placeholders``.
    """
    if visual.row_index is not None:
        text = text._replace(video_index=visual.row_index)
    placeholder = find_placeholders(text, visual.mask.shape[0])
    visual_rows = (text.video_index != TEXT_ONLY).nonzero().squeeze(1)  # conversations that have a video
    keep = torch.zeros(*text.video_index.shape, visual.mask.shape[1], dtype=torch.bool, device=visual.mask.device)
    keep[visual_rows] = visual.mask[text.video_index[visual_rows]]  # [C, Q]

    lengths = torch.where(placeholder, keep.sum(dim=1, keepdim=True), text.text_mask)  # [C, K]
    ends = lengths.cumsum(dim=1)
    totals = ends[:, -1:]  # [C, 1]
    longest = int(totals.max())
    first = longest - totals if pad_left else torch.zeros_like(totals)
    starts = first + ends - lengths

    text_row, text_slot = (text.text_mask & ~placeholder).nonzero(as_tuple=True)
    visual_row, visual_slot = keep.nonzero(as_tuple=True)
    visual_start = (starts * placeholder).sum(dim=1)  # [C]
    rank = keep.cumsum(dim=1) - 1  # [C, Q], place of a visual token among those kept
    rows = torch.cat([text_row, visual_row])
    columns = torch.cat([starts[text_row, text_slot], visual_start[visual_row] + rank[visual_row, visual_slot]])
    values = torch.cat(
        [
            text_embeddings[text_row, text_slot],
            visual.tokens[text.video_index[visual_row], visual_slot].to(text_embeddings.dtype),
        ]
    )

    shape = (text.input_ids.shape[0], longest)
    embeddings = values.new_zeros(*shape, values.shape[-1]).index_put((rows, columns), values)  # [C, T, E]
    mask = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    mask[rows, columns] = True
    labels = torch.full(shape, IGNORED_LABEL, dtype=text.labels.dtype, device=rows.device)
    labels[text_row, starts[text_row, text_slot]] = text.labels[text_row, text_slot]
    position_ids = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return SplicedInputs(embeddings, mask, labels, position_ids)
