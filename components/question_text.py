"""Finds and embeds the question of a conversation: everything before its first answer."""

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER, LanguageModel, Questions, TextInputs


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


def without_answers(text: TextInputs) -> TextInputs:
    """Cut every conversation before its first labelled token.

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
    return text._replace(text_mask=mask, labels=torch.full_like(text.labels, IGNORED_LABEL))
