"""A reader that merges the most similar neighbouring frames when there are too many."""

import torch
from torch import Tensor
from torch.nn import functional

from components.readers.frame_bank import FrameBank, HeldFrames, with_scores
from components.readers.frame_reader import FrameRun


class SimilarityMerge(FrameBank):
    """Holds at most ``num_frames`` frames; one too many merges the two neighbours that are most alike.

    Each entry of the bank is the mean of one or more frames. Two neighbouring entries are compared by the cosine
    similarity of their patches at the same position, averaged over the positions. Of equal pairs the first is merged.
    The merged entry is the mean of all frames of both: entries are weighted by how many frames they stand for. It has
    the place of the entry that stands for more frames, of equal ones the earlier. So long scenes in which little
    happens become one entry, and no frame is lost altogether. Frames enter one by one, so the cuts between segments
    change nothing, and the stored bytes do not grow with the video.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most entries that are stored and shown.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a code of each frame's number in its video to its patches, before they are projected.

    Raises:
        ValueError: There is no frame to store, ``projection`` is neither of the two, or the widths do not fit.

    Source: the merging of MovieChat (arXiv:2307.16449), which weighs both neighbours equally and merges once a short
    buffer is full; weights by size as in token merging (arXiv:2210.09461).
    """

    def held_after(self, held: HeldFrames | None, new: FrameRun) -> HeldFrames:
        """The entries after the segment's frames have entered one by one; see ``FrameBank.held_after``."""
        entries = held
        for frame in range(new.order.shape[1]):
            one = FrameRun(*(field[:, frame : frame + 1] for field in new))
            entries = with_scores(entries, one, (one.order >= 0).float())
            if entries.score.shape[1] > self.num_frames:
                entries = merged_neighbours(entries)
        assert entries is not None  # a segment has a frame group
        return entries


def merged_neighbours(entries: HeldFrames) -> HeldFrames:
    """Merge two neighbouring entries of every video, or drop a slot without an entry where there is one.

    Args:
        entries: At least two slots; ``score`` is the number of frames of each entry, 0 without one.

    Returns:
        The entries in one slot fewer.
    """
    frames, size = entries
    is_real = frames.order >= 0
    is_full = is_real.all(dim=1)
    first = _most_alike(frames.tokens)[:, None]  # [V, 1]
    size_first, size_second = size.gather(1, first), size.gather(1, first + 1)
    slots = torch.arange(size.shape[1] - 1, device=first.device)
    is_pair = (slots == first) & is_full[:, None]
    after_merge = slots + ((slots > first) | ((slots == first) & (size_second > size_first)))
    without_empty = (~is_real).int().argsort(dim=1, stable=True)[:, :-1]
    source = torch.where(is_full[:, None], after_merge, without_empty)
    kept = HeldFrames(frames.taken(source, frames.order.gather(1, source)), size.gather(1, source))
    merged = _mean(frames.tokens, first, size_first, size_second)
    tokens = torch.where(is_pair[:, :, None, None], merged, kept.frames.tokens)
    return HeldFrames(kept.frames._replace(tokens=tokens), torch.where(is_pair, size_first + size_second, kept.score))


def _most_alike(tokens: Tensor) -> Tensor:
    """The first of the two neighbouring entries ``[V, L, N, D]`` that are most alike, ``[V]``."""
    units = functional.normalize(tokens.detach().float(), dim=-1)
    # 1 minus the cosine, of vectors of length 1; of equal frames it is exactly 0.
    distance = (units[:, :-1] - units[:, 1:]).square().sum(dim=-1).mean(dim=2) / 2.0  # [V, L - 1]
    return distance.argmin(dim=1)


def _mean(tokens: Tensor, first: Tensor, size_first: Tensor, size_second: Tensor) -> Tensor:
    """Mean of an entry of each video and the next one, weighted by their sizes ``[V, 1]``; ``[V, 1, N, D]``."""
    video = torch.arange(len(tokens), device=first.device)[:, None]
    share = (size_second / (size_first + size_second).clamp(min=1))[:, :, None, None]
    one, other = tokens[video, first].float(), tokens[video, first + 1].float()
    return (one + (other - one) * share).to(tokens.dtype)  # exact where both are equal
