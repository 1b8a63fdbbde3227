"""After which segments the loss is taken, how the readings are weighted, and how many of them stay affordable."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from components.interfaces import TEXT_ONLY, AnswerLoss, LanguageModel, LossSchedule, TextInputs, VisualTokens


class FinalSegmentLoss(LossSchedule):
    """Takes the loss once, after the last segment; a video with fewer segments keeps its memory until then."""

    def steps(self, num_segments: int) -> Sequence[int]:
        """See ``LossSchedule``."""
        return [num_segments - 1]

    def weights(self, segment_mask: Tensor) -> Tensor:
        """See ``LossSchedule``."""
        return torch.ones(segment_mask.shape[0], 1, device=segment_mask.device)


class EverySegmentLoss(LossSchedule):
    """Takes the loss after every segment, so that the bridge learns to carry what later questions need.

    Only real segments count. A video without any (the masked dummy of a text-only batch) has its weight on the last.

    Args:
        weights: ``uniform`` counts all segments of a video alike; ``increasing`` counts its i-th one i times as much
            as its first, since an early reading cannot know what a later segment shows.

    Raises:
        ValueError: ``weights`` is neither.
    """

    def __init__(self, weights: Literal["uniform", "increasing"] = "uniform") -> None:
        if weights not in ("uniform", "increasing"):
            raise ValueError(f"weights is {weights!r}; expected 'uniform' or 'increasing'")
        self.profile = weights

    def steps(self, num_segments: int) -> Sequence[int]:
        """See ``LossSchedule``."""
        return range(num_segments)

    def weights(self, segment_mask: Tensor) -> Tensor:
        """See ``LossSchedule``."""
        real = segment_mask.float()  # [V, S]
        raw = real * real.cumsum(dim=1) if self.profile == "increasing" else real
        no_segment = ~segment_mask.any(dim=1)
        raw[:, -1] = raw[:, -1] + no_segment.float()
        return raw / raw.sum(dim=1, keepdim=True)


def answer_loss_per_reading(
    language_model: LanguageModel, readings: Sequence[VisualTokens], text: TextInputs
) -> list[AnswerLoss]:
    """Score the answers once for every reading while holding the language model's graph of one reading at a time.

    The last reading runs as usual: backward begins with it and frees its graph before it needs another. The earlier
    ones keep only their visual tokens and run again during backward, so R readings cost R - 1 extra forwards.
    Dropout draws the same masks when a reading runs again. A model that may not run again keeps all its graphs.

    Args:
        language_model: The language model.
        readings: What it sees after each of the R steps.
        text: The conversations, the same for all readings.

    Returns:
        The R losses in the order of ``readings``, gradients equal to R ordinary calls.
    """
    if not language_model.may_run_again:
        return [language_model(reading, text) for reading in readings]
    losses: list[AnswerLoss] = []
    for reading in readings[:-1]:
        # Run again to the end, not just as far as backward needs: strategies that shard free weights at the end.
        with set_checkpoint_early_stop(False):
            losses.append(checkpoint(language_model, reading, text, use_reentrant=False, preserve_rng_state=True))
    losses.append(language_model(readings[-1], text))
    return losses


def weighted_answer_loss(
    losses: Sequence[AnswerLoss], weights: Tensor, video_index: Tensor, num_tokens: Tensor | None = None
) -> Tensor:
    """Mean loss of an answer token, each conversation's readings weighted as its video's.

    Args:
        losses: One for each of the R readings.
        weights: Weight of every reading, ``[V, R]``, rows sum to 1.
        video_index: Video of every conversation, ``[C]``; a text-only one sees no memory, so all its readings are the
            same and the last alone counts.
        num_tokens: Answer tokens to share the loss out over, a positive scalar; those of the batch by default.

    Returns:
        Scalar; zero, with its graph, if the batch has no labelled token.
    """
    nll = torch.stack([loss.nll for loss in losses], dim=1)  # [C, R]
    conversation_weights = torch.zeros_like(nll)
    conversation_weights[:, -1] = 1.0
    with_video = (video_index != TEXT_ONLY).nonzero().squeeze(1)
    conversation_weights[with_video] = weights[video_index[with_video]].to(nll.dtype)
    return (conversation_weights * nll).sum() / _number_of_tokens(losses[-1], num_tokens)


def penalty_where_answers_are_known(
    of_video: Tensor, video_index: Tensor, answers: AnswerLoss, num_tokens: Tensor | None = None
) -> Tensor:
    """Mean of the videos' penalties over answer tokens, each as far as the model knows its answer.

    A bridge that pays for what it remembers would else remember nothing from the first step on, for at first nothing
    it remembers is of use. So a conversation's tokens count with their likelihood (its geometric mean over the answer):
    as answers become known, remembering more than they need begins to cost.

    Args:
        of_video: Penalty of every video, ``[V]``.
        video_index: Video of every conversation, ``[C]``; those without one count as zero.
        answers: Loss of every conversation after the last reading; no gradient goes this way.
        num_tokens: Answer tokens to share the penalty out over, a positive scalar; those of the batch by default.

    Returns:
        Scalar; zero, with its graph, if no conversation has a video.
    """
    tokens = answers.num_tokens.to(of_video.dtype)
    known = tokens * torch.exp(-answers.nll.detach().to(of_video.dtype) / tokens.clamp(min=1))  # [C]
    share = torch.zeros_like(of_video)
    with_video = video_index != TEXT_ONLY
    share = share.index_add(0, video_index[with_video], known[with_video])
    return (share * of_video).sum() / _number_of_tokens(answers, num_tokens)


def _number_of_tokens(answers: AnswerLoss, given: Tensor | None) -> Tensor:
    return answers.num_tokens.sum().clamp(min=1) if given is None else given
