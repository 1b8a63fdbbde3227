"""Writes prompts as text inputs; finds and embeds the question of a conversation: all before its first answer."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    LanguageModel,
    Questions,
    TextInputs,
    VisualTokens,
)


def padded_prompts(ids: Sequence[Sequence[int]], pad_id: int) -> TextInputs:
    """Make texts without labels of ids. The placeholders of each show the first media, in their order.

    Args:
        ids: Token ids of every conversation.
        pad_id: What shorter ones are filled up with, on the right.

    Raises:
        ValueError: There is no conversation.
    """
    if not ids:
        raise ValueError("there is no question; give at least one")
    padded = pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=pad_id)  # [C, K]
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
    shown = torch.tensor([list(row).count(VIDEO_PLACEHOLDER) for row in ids])[:, None]  # [C, 1]
    media = torch.arange(max(1, int(shown.max())))
    video_index = torch.where(media < shown, media, TEXT_ONLY)
    return TextInputs(padded, mask, torch.full_like(padded, IGNORED_LABEL), video_index)


def before_answer(text: TextInputs) -> Tensor:
    """Find the tokens before every conversation's first labelled one; all tokens if none is labelled.

    Args:
        text: The conversations.

    Returns:
        ``[C, K]`` bool, including the placeholder, without padding.
    """
    return text.text_mask & ((text.labels != IGNORED_LABEL).cumsum(dim=1) == 0)


def embed_questions(language_model: LanguageModel, text: TextInputs) -> Questions:
    """Embed the questions of a batch.

    In a conversation of several turns it is the first question: one row of visual tokens serves all its answers, and
    the first answer must not see what comes later. A conversation about several media has a row for each of them.

    Args:
        language_model: Its embeddings are used, and get gradients.
        text: The conversations.

    Returns:
        The questions: system prompt, user's words and what the chat template adds around them.
    """
    embeddings = language_model.embed(text.input_ids)
    mask = (before_answer(text) & (text.input_ids != VIDEO_PLACEHOLDER)).to(embeddings.device, non_blocking=True)
    num_media = text.video_index.shape[1]
    if num_media > 1:
        embeddings, mask = (each.repeat_interleave(num_media, dim=0) for each in (embeddings, mask))
    return Questions(embeddings, mask, text.video_index)


def without_answers(visual: VisualTokens, text: TextInputs) -> tuple[VisualTokens, TextInputs]:
    """Cut every conversation before its first labelled token, together with the media that are shown later.

    Args:
        visual: Visual tokens of the conversations' media.
        text: The conversations.

    Returns:
        The visual tokens and the prompts.

    Raises:
        ValueError: Fewer than two tokens are left, so there is nothing to answer.
    """
    mask = before_answer(text)
    lengths = mask.sum(dim=1).tolist()
    short = {row: length for row, length in enumerate(lengths) if length < 2}
    if short:
        raise ValueError(
            f"prompts (tokens before the first labelled one) are too short in these conversations: {short} "
            "(conversation: tokens); at least 2 are needed"
        )
    is_shown = (text.input_ids == VIDEO_PLACEHOLDER) & text.text_mask  # [C, K]
    num_later = (is_shown & ~mask).sum(dim=1, keepdim=True)  # [C, 1]
    rows = None if visual.row_index is None else _without_last(visual.row_index, num_later)
    video_index = _without_last(text.video_index, num_later)
    labels = torch.full_like(text.labels, IGNORED_LABEL)
    return visual._replace(row_index=rows), text._replace(text_mask=mask, labels=labels, video_index=video_index)


def _without_last(index: Tensor, numbers: Tensor) -> Tensor:
    """An index of media ``[C, M]`` without the last ``numbers [C, 1]`` media of every conversation."""
    num_left = (index != TEXT_ONLY).sum(dim=1, keepdim=True) - numbers.to(index.device)
    return index.masked_fill(torch.arange(index.shape[1], device=index.device) >= num_left, TEXT_ONLY)
