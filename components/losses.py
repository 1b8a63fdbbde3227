"""After which segments the loss is taken, how these readings are weighted, and how their memory is limited."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from components.interfaces import TEXT_ONLY, AnswerLoss, LanguageModel, LossSchedule, TextInputs, VisualTokens


class FinalSegmentLoss(LossSchedule):
    """Takes the loss once, after the last segment; a video with fewer segments has its last state then."""

    def steps(self, num_segments: int) -> Sequence[int]:
        """See ``LossSchedule``."""
        return [num_segments - 1]

    def weights(self, segment_mask: Tensor) -> Tensor:
        """See ``LossSchedule``."""
        return torch.ones(segment_mask.shape[0], 1, device=segment_mask.device)


class EverySegmentLoss(LossSchedule):
    """Takes the loss after every segment, so that the bridge learns to carry what later questions need.

    Only real segments count. For a video without any (the dummy of a text-only batch) the last reading counts.

    Args:
        weights: ``uniform``: all segments of a video count the same. ``increasing``: its i-th segment counts i times as
            much as its first, because an early reading cannot know what a later segment shows.

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
    """Score the answers once for every reading, with the language model's graph of one reading in memory at a time.

    The last reading runs as usual, because backward begins with it. Of the earlier ones only the visual tokens are
    stored; they run again during backward, so R readings cost R - 1 extra forward passes. Dropout uses the same masks
    when a reading runs again. The graphs of a model that may not run again are all stored.

    Args:
        language_model: The language model.
        readings: What it sees after each of the R steps.
        text: The conversations, the same for all readings.

    Returns:
        The R losses in the order of ``readings``; the gradients equal those of R ordinary calls.
    """
    if not language_model.may_run_again:
        return [language_model(reading, text) for reading in readings]
    losses: list[AnswerLoss] = []
    for reading in readings[:-1]:
        # Run again to the end, not only as far as backward needs: strategies that shard free weights at the end.
        with set_checkpoint_early_stop(False):
            losses.append(checkpoint(language_model, reading, text, use_reentrant=False, preserve_rng_state=True))
    losses.append(language_model(readings[-1], text))
    return losses


def weights_of_conversations(schedule: LossSchedule, segment_mask: Tensor, video_index: Tensor) -> Tensor:
    """Weight of every reading for every conversation, ``[C, R]``; on the host.

    A conversation about several media has a segment where one of them has. All readings of a text-only one are the
    same, so only the last counts.

    Args:
        schedule: Weights the readings.
        segment_mask: Which segments the videos have, ``[V, S]`` bool.
        video_index: Videos of every conversation, ``[C, M]``.
    """
    shows = video_index != TEXT_ONLY
    mask = (segment_mask[video_index.clamp(min=0)] & shows[..., None]).any(dim=1)  # [C, S]
    weights = schedule.weights(mask)
    last = torch.zeros_like(weights)
    last[:, -1] = 1.0
    return torch.where(shows.any(dim=1, keepdim=True), weights, last)


def weighted_answer_loss(losses: Sequence[AnswerLoss], weights: Tensor, num_tokens: Tensor | None = None) -> Tensor:
    """Mean loss of an answer token.

    Args:
        losses: One for each of the R readings.
        weights: Weight of every reading for every conversation, ``[C, R]``; rows sum to 1.
        num_tokens: Number of answer tokens to divide by, a positive scalar; that of the batch by default.

    Returns:
        Scalar; zero, with its graph, if the batch has no labelled token.
    """
    nll = torch.stack([loss.nll for loss in losses], dim=1)  # [C, R]
    weighted = weights.to(nll.device, nll.dtype, non_blocking=True) * nll
    return weighted.sum() / _number_of_tokens(losses[-1], num_tokens)


def penalty_weighted_by_likelihood(
    of_video: Tensor, video_index: Tensor, answers: AnswerLoss, num_tokens: Tensor | None = None
) -> Tensor:
    """Mean of the videos' penalties over answer tokens, weighted by how well each answer is predicted.

    Weighted by exp(-mean NLL), so that the penalty acts only where answers are already predicted well. With a constant
    weight the bridge would stop remembering in the first steps, before the language model can use a memory.

    Args:
        of_video: Penalty of every video, ``[V]``.
        video_index: Videos of every conversation, ``[C, M]``; a conversation's weight is shared equally by them.
        answers: Loss of every conversation after the last reading; it gets no gradient from the penalty.
        num_tokens: Number of answer tokens to divide by, a positive scalar; that of the batch by default.

    Returns:
        Scalar; zero, with its graph, if no conversation has a video.
    """
    device = of_video.device
    tokens = answers.num_tokens.to(device, of_video.dtype, non_blocking=True)
    known = tokens * torch.exp(-answers.nll.detach().to(of_video.dtype) / tokens.clamp(min=1))  # [C]
    shows = video_index != TEXT_ONLY  # [C, M]
    row, medium = shows.nonzero(as_tuple=True)
    videos = video_index[row, medium].to(device, non_blocking=True)
    parts = (1.0 / shows.sum(dim=1)[row]).to(device, of_video.dtype, non_blocking=True)
    share = torch.zeros_like(of_video)
    share = share.index_add(0, videos, known[row.to(device, non_blocking=True)] * parts)
    return (share * of_video).sum() / _number_of_tokens(answers, num_tokens)


def _number_of_tokens(answers: AnswerLoss, given: Tensor | None) -> Tensor:
    return answers.num_tokens.sum().clamp(min=1) if given is None else given
