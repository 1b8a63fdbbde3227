"""Replaces the placeholders of every conversation by the visual tokens of its media, without loops over rows.

``find_placeholders`` finds and checks the placeholders; ``splice`` builds the joined sequences. Every position of the
text has a length in the result: a placeholder as many positions as its medium has visual tokens, a text token 1,
padding 0. The cumulative sum of these lengths gives the position of each token. Videos, images, text and padding need
no special cases. All of this is computed on the host; only embeddings are moved on their device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    TextInputs,
    TokenPlaces,
    VisualTokens,
)


class SplicedInputs(NamedTuple):
    """Text and visual tokens of every conversation in one sequence of T positions: the language model's input."""

    embeddings: Tensor  # [C, T, E], zero at padding
    mask: Tensor  # [C, T] bool, False at padding; on the host
    labels: Tensor  # [C, T] int64, IGNORED_LABEL at visual tokens and padding; on the host
    position_ids: Tensor  # [C, T] int64, 0 at the first token of a row; on the host
    places: TokenPlaces | None = None  # [C, T], -1 at text and padding; None if no visual token has a place


def find_placeholders(text: TextInputs, row_index: Tensor, num_rows: int) -> Tensor:
    """Find the placeholders of every conversation, and check that text and videos match.

    Args:
        text: The conversations, on the host.
        row_index: Row of visual tokens of each medium of a conversation, ``[C, M]``; TEXT_ONLY beyond its media.
        num_rows: Number of rows: the videos of the batch, V, unless a reader has read the questions.

    Returns:
        ``[C, K]`` bool, True at the placeholders.

    Raises:
        ValueError: A conversation has more or fewer placeholders than media, or a medium is not in the batch. The model
            would be trained on wrong videos without any other error.
    """
    placeholder = (text.input_ids == VIDEO_PLACEHOLDER) & text.text_mask  # [C, K]
    counts = placeholder.sum(dim=1)
    shows = row_index != TEXT_ONLY
    in_order = (shows.long().diff(dim=1) <= 0).all(dim=1)  # no medium after a missing one
    known = ((row_index >= TEXT_ONLY) & (row_index < num_rows)).all(dim=1) & in_order
    expected = shows.sum(dim=1)
    if bool(((counts == expected) & known).all()):
        return placeholder
    wrong = [
        f"conversation {row}: {got} placeholder(s), {want} expected (video_index {_shown(videos)})"
        for row, (got, want, videos, fits) in enumerate(
            zip(counts.tolist(), expected.tolist(), row_index.tolist(), known.tolist(), strict=True)
        )
        if got != want or not fits
    ]
    raise ValueError(
        f"text and videos are out of step, which would silently train on the wrong pictures: {'; '.join(wrong)}. "
        f"The batch has {num_rows} video(s); a conversation has one placeholder (id {VIDEO_PLACEHOLDER}) for each of "
        f"its media, a text-only one (video_index {TEXT_ONLY}) has none."
    )


def _shown(videos: list[int]) -> str:
    return str(videos[0]) if len(videos) == 1 else str(videos)


def splice(visual: VisualTokens, text: TextInputs, text_embeddings: Tensor) -> SplicedInputs:
    """Replace placeholders by visual tokens.

    Several conversations may share a video. Masked visual tokens are dropped, so videos may have different numbers of
    tokens. The result is differentiable with respect to ``text_embeddings`` and ``visual.tokens``; both are part of
    the graph even if no conversation uses them.

    Args:
        visual: Visual tokens of the batch's videos.
        text: The conversations; one without a video has ``video_index`` TEXT_ONLY.
        text_embeddings: Embedded ``text.input_ids``, ``[C, K, E]``; ignored at placeholders and padding.

    Returns:
        The joined sequences, padded to the longest, in the dtype of ``text_embeddings``.

    Raises:
        ValueError: See ``find_placeholders``.
    """
    text = TextInputs(*(field.cpu() for field in text))
    row_index = text.video_index if visual.row_index is None else visual.row_index.cpu()  # [C, M]
    placeholder = find_placeholders(text, row_index, visual.mask.shape[0])
    # One entry for each of the I placeholders, in the order of the conversations and of each one's media.
    shown_row, shown_column = placeholder.nonzero(as_tuple=True)
    source = row_index[row_index != TEXT_ONLY]  # [I]
    keep = visual.mask.cpu()[source]  # [I, Q]

    lengths = text.text_mask.long()
    lengths[shown_row, shown_column] = keep.sum(dim=1)
    ends = lengths.cumsum(dim=1)
    longest = int(ends[:, -1].max())
    starts = ends - lengths

    text_row, text_column = (text.text_mask & ~placeholder).nonzero(as_tuple=True)
    text_position = starts[text_row, text_column]
    shown, visual_column = keep.nonzero(as_tuple=True)
    order = keep.cumsum(dim=1) - 1  # [I, Q], index of a visual token among those of its row that are not masked
    visual_row = shown_row[shown]
    visual_position = starts[visual_row, shown_column[shown]] + order[shown, visual_column]

    shape = (text.input_ids.shape[0], longest)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[text_row, text_position] = True
    mask[visual_row, visual_position] = True
    labels = torch.full(shape, IGNORED_LABEL, dtype=text.labels.dtype)
    labels[text_row, text_position] = text.labels[text_row, text_column]
    device = text_embeddings.device
    at_text = _on(device, text_row, text_column, text_position)
    at_visual = _on(device, source[shown], visual_column, visual_row, visual_position)
    return SplicedInputs(
        embeddings=_joined(text_embeddings, visual.tokens, at_text, at_visual, shape),
        mask=mask,
        labels=labels,
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp(min=0),
        places=None if visual.places is None else _spliced_places(visual.places, at_visual, shape),
    )


def _on(device: torch.device, *indices: Tensor) -> Tensor:
    """Index vectors of one length as rows of one matrix, moved in one copy."""
    return torch.stack(indices).to(device, non_blocking=True)


def _joined(text: Tensor, visual: Tensor, at_text: Tensor, at_visual: Tensor, shape: tuple[int, int]) -> Tensor:
    """Embeddings of text and visual tokens at their positions, ``[C, T, E]``."""
    text_row, text_column, text_position = at_text
    source, visual_column, visual_row, visual_position = at_visual
    rows = torch.cat([text_row, visual_row])
    columns = torch.cat([text_position, visual_position])
    values = torch.cat([text[text_row, text_column], visual[source, visual_column].to(text.dtype)])
    return values.new_zeros(*shape, values.shape[-1]).index_put((rows, columns), values)


def _spliced_places(places: TokenPlaces, at_visual: Tensor, shape: tuple[int, int]) -> TokenPlaces:
    source, visual_column, visual_row, visual_position = at_visual
    nowhere = torch.full(shape, -1, device=places.frame.device)
    return TokenPlaces(
        *(nowhere.index_put((visual_row, visual_position), field[source, visual_column]) for field in places)
    )
