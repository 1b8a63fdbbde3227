"""What of a conversation is the question: everything that stands before its first answer."""

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
