"""A reader that shows the frames that were new when they came."""

import torch
from torch import Tensor
from torch.nn import functional

from components.readers.frame_bank import FrameChoice, HeldFrames, with_scores
from components.readers.frame_reader import FrameRun

_FIRST = 2.0  # novelty of the first frame: no cosine is below -1


class NovelFrames(FrameChoice):
    """Holds the ``num_frames`` frames that were most unlike the frames held before them. Nothing is learned.

    A frame is compared by the mean of its patch vectors. Its *novelty* is 1 minus the highest cosine similarity to the
    frames that are held when it comes, and does not change later. The first frame has the novelty 2. When there is one
    frame too many, the one of the lowest novelty is dropped, of equal ones the newest: the novelty of a frame that
    repeats what is held is 0, so it never replaces anything new. A scene that has been dropped is new when it comes
    again. Frames enter one by one, so the cuts between segments change nothing, and the stored bytes do not grow with
    the video.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most frames that are stored and shown.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a code of each frame's number in its video to its patches, before they are projected.

    Raises:
        ValueError: There is no frame to store, ``projection`` is neither of the two, or the widths do not fit.

    Source: ours, as the rival without learning of the selective memory.
    """

    def held_after(self, held: HeldFrames | None, new: FrameRun) -> HeldFrames:
        """The frames of the highest novelty; see ``FrameBank.held_after``."""
        vectors = _frame_vectors(new.tokens)
        frames = with_scores(held, new, torch.zeros_like(vectors[:, :, 0]))
        if held is not None:
            vectors = torch.cat([_frame_vectors(held.frames.tokens), vectors], dim=1)
        is_real = frames.frames.order >= 0
        is_held, score = _novel(vectors, is_real, frames.score, new.order.shape[1], self.num_frames)
        return frames._replace(score=score).of_slots(is_held, self.num_frames)


def _frame_vectors(tokens: Tensor) -> Tensor:
    """Mean patch vector of every frame ``[V, L, N, D]``, of length 1, ``[V, L, D]`` float32; without gradient."""
    return functional.normalize(tokens.detach().float().mean(dim=2), dim=-1)


def _novel(vectors: Tensor, is_real: Tensor, score: Tensor, num_new: int, most: int) -> tuple[Tensor, Tensor]:
    """Let the last ``num_new`` of the frames enter one by one.

    Args:
        vectors: Vector of every frame, ``[V, L, D]``.
        is_real: ``[V, L]`` bool.
        score: Novelty of the frames before, ``[V, L]``.
        num_new: Frames that enter.
        most: Most frames that are held.

    Returns:
        The frames that are held, ``[V, L]`` bool, and the novelty of all.
    """
    slots = torch.arange(vectors.shape[1], device=is_real.device)
    num_before = len(slots) - num_new
    is_held = is_real & (slots < num_before)
    for slot in range(num_before, len(slots)):
        # 1 minus the cosine, of vectors of length 1; of equal frames it is exactly 0.
        distance = (vectors[:, slot, None] - vectors).square().sum(dim=-1) / 2.0
        novelty = distance.masked_fill(~is_held, _FIRST).amin(dim=1, keepdim=True)
        enters = is_real & (slots == slot)
        score = torch.where(enters, novelty, score)
        is_held = is_held | enters
        least = score.masked_fill(~is_held, torch.inf)
        newest_least = (slots * (least == least.amin(dim=1, keepdim=True))).amax(dim=1, keepdim=True)
        is_over = is_held.sum(dim=1, keepdim=True) > most
        is_held = is_held & ~((slots == newest_least) & is_over)
    return is_held, score
