"""What of a conversation is the question: everything that stands before its first answer."""

import torch
from torch import Tensor

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER, LanguageModel, Questions, TextInputs


def before_answer(text: TextInputs) -> Tensor:
    """Find the tokens before every conversation's first labelled one; all where nothing is labelled.

    Args:
        text: The conversations.

    Returns:
        ``[C, K]`` bool, the placeholder included, padding not.
    """
    return text.text_mask & ((text.labels != IGNORED_LABEL).cumsum(dim=1) == 0)


def embed_questions(language_model: LanguageModel, text: TextInputs) -> Questions:
    """Embed the questions of a batch.

    Of several turns the first counts: a training conversation has one row of visual tokens for all its answers, and
    the first of them must not see what comes later.

    Args:
        language_model: Its embeddings are used; gradients reach them.
        text: The conversations.

    Returns:
        The questions: system prompt, user's words and what the chat template writes around them.
    """
    mask = before_answer(text) & (text.input_ids != VIDEO_PLACEHOLDER)
    return Questions(language_model.embed(text.input_ids), mask, text.video_index)


def without_answers(text: TextInputs) -> TextInputs:
    """Keep what stands before the first labelled token of every conversation.

    Raises:
        ValueError: Fewer than two tokens are left; there would be nothing to answer to.
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
