"""Replaces the placeholder of every conversation by the visual tokens of its video, without loops over rows.

``find_placeholders`` finds and checks the placeholders; ``splice`` builds the joined sequences. Every position of the
text has a length in the result: a placeholder as many positions as its video has visual tokens, a text token 1, padding
0. The cumulative sum of these lengths gives the position of each token. Videos, images, text and padding need no
special cases.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs, VisualTokens


class SplicedInputs(NamedTuple):
    """Text and visual tokens of every conversation in one sequence of T positions: the language model's input."""

    embeddings: Tensor  # [C, T, E], zero at padding
    mask: Tensor  # [C, T] bool, False at padding
    labels: Tensor  # [C, T] int64, IGNORED_LABEL at visual tokens and padding
    position_ids: Tensor  # [C, T] int64, 0 at the first token of a row that is not padding


def find_placeholders(text: TextInputs, num_videos: int) -> Tensor:
    """Find the placeholder of every conversation, and check that text and videos match.

    Args:
        text: The conversations.
        num_videos: Number of videos in the batch, V.

    Returns:
        ``[C, K]`` bool, True at the placeholder of every conversation that has a video.

    Raises:
        ValueError: A conversation with a video does not have exactly one placeholder, one without a video has a
            placeholder, or ``video_index`` is not the index of a video. The model would be trained on wrong videos
            without any other error.
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
    """Replace placeholders by visual tokens.

    Several conversations may share a video. Masked visual tokens are dropped, so videos may have different numbers of
    tokens. The result is differentiable with respect to ``text_embeddings`` and ``visual.tokens``; both are part of
    the graph even if no conversation uses them.

    Args:
        visual: Visual tokens of the batch's videos.
        text: The conversations; one without a video has ``video_index`` TEXT_ONLY.
        text_embeddings: Embedded ``text.input_ids``, ``[C, K, E]``; ignored at placeholders and padding.
        pad_left: Pad on the left, for generation, instead of on the right.

    Returns:
        The joined sequences, padded to the longest, in the dtype of ``text_embeddings``.

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

    text_row, text_column = (text.text_mask & ~placeholder).nonzero(as_tuple=True)
    visual_row, visual_column = keep.nonzero(as_tuple=True)
    visual_start = (starts * placeholder).sum(dim=1)  # [C]
    order = keep.cumsum(dim=1) - 1  # [C, Q], index of a visual token among those of its row that are not masked
    rows = torch.cat([text_row, visual_row])
    columns = torch.cat([starts[text_row, text_column], visual_start[visual_row] + order[visual_row, visual_column]])
    values = torch.cat(
        [
            text_embeddings[text_row, text_column],
            visual.tokens[text.video_index[visual_row], visual_column].to(text_embeddings.dtype),
        ]
    )

    shape = (text.input_ids.shape[0], longest)
    embeddings = values.new_zeros(*shape, values.shape[-1]).index_put((rows, columns), values)  # [C, T, E]
    mask = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    mask[rows, columns] = True
    labels = torch.full(shape, IGNORED_LABEL, dtype=text.labels.dtype, device=rows.device)
    labels[text_row, starts[text_row, text_column]] = text.labels[text_row, text_column]
    position_ids = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return SplicedInputs(embeddings, mask, labels, position_ids)
