"""Keeps the salient patches of every frame, and merges the others of a segment into patches of a few of its frames."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from components.full_precision import full_precision
from components.interfaces import SegmentInput, SegmentReducer
from components.merging.density_peaks import Noise, cluster_means, density_peaks
from components.reducers.clustered_cells import CellClusters
from components.reducers.token_choice import keep_tokens

Budget = Literal["segment", "each_frame"]
_NEIGHBOURS = 4


class TokenBudget(NamedTuple):
    """How many tokens a segment of some frames keeps."""

    salient: list[int]  # of every frame
    targets: list[int]  # of every anchor, the last frame first

    @property
    def total(self) -> int:
        """Tokens of the segment, if its frames have as many."""
        return sum(self.salient) + sum(self.targets)


class _Anchors(NamedTuple):
    """The frames of a segment that others are merged into, the last one first."""

    frame: Tensor  # [V, A] int64, group of the segment
    cell: Tensor  # [V, A, K] int64, cells of the targets
    is_target: Tensor  # [V, A, K] bool


class AnchorMerge(SegmentReducer[tuple[()]]):
    """Keeps the most salient patches of every frame, and merges all others into dense patches of a few frames.

    Every few frames, counted back from the end of the segment, is an *anchor*. Of the patches of an anchor that are not
    salient, those that are dense and far from denser ones (as in DPC-KNN) are *targets*. For every anchor, the patches
    of the segment that are not salient are averaged into the most similar of its targets. All tokens keep their places.
    How salient a patch is, the encoder tells (its option ``saliency_layer``). The number of tokens depends on the
    number of frames alone, so nothing waits for the device.

    Args:
        dim: Width of a patch, D; it stays.
        ratio: Tokens for each patch of a frame, rounded down, but at least one a frame.
        target_share: Share of the tokens that are targets, rounded down.
        anchor_step: Frames from one anchor to the next.
        target_weight: Least weight of a target in the mean of itself and the patches that are merged into it.
        budget: ``segment``: what rounding leaves is given to the first frames and to the last anchors, and the targets
            of an anchor are not merged into each other: the form for LLaVA-Video. ``each_frame``: each frame and each
            anchor has the same number, a few tokens fewer, and a target is also one of the patches that are merged into
            it: the form for LLaVA-OneVision.

    Raises:
        ValueError: ``ratio`` is not above 0 and at most 1, ``target_share`` or ``target_weight`` is outside 0..1,
            ``anchor_step`` is below 1, or ``budget`` is neither of the two.

    Source: STPrune of FastVID (arXiv:2503.11187), LunarShen/FastVID (MIT), both files
    ``.../language_model/modeling_qwen2.py``, commit a40a109, with ratio 0.1. There it works on the projected tokens and
    keeps line breaks, and ties are broken by random numbers. Its segments are those of ``DynamicCuts``.
    """

    reads_saliency = True

    def __init__(
        self,
        dim: int,
        *,
        ratio: float = 0.1,
        target_share: float = 0.4,
        anchor_step: int = 4,
        target_weight: float = 0.6,
        budget: Budget = "segment",
    ) -> None:
        super().__init__()
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
        for name, value in (("target_share", target_share), ("target_weight", target_weight)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in 0..1, got {value}")
        if anchor_step < 1:
            raise ValueError(f"anchor_step must be at least 1, got {anchor_step}")
        if budget not in get_args(Budget):
            raise ValueError(f"budget must be one of {get_args(Budget)}, got {budget!r}")
        self.out_dim = dim
        self.ratio = ratio
        self.target_share = target_share
        self.anchor_step = anchor_step
        self.target_weight = target_weight
        self.budget = budget

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before, or there is no saliency.
        """
        grid = segment.grid(self)  # [V, L, N, D]
        if segment.saliency is None:
            raise ValueError("AnchorMerge needs the saliency of patches: set the encoder's saliency_layer")
        saliency = segment.saliency.detach().view(grid.shape[:3])
        tokens, chosen = self.merged(grid, saliency, segment.frame_mask)
        length, num_cells = grid.shape[1:3]
        most = max(self.budget_of(frames, num_cells).total for frames in range(1, length + 1))
        num_kept = min(most, length * num_cells)
        return keep_tokens(segment._replace(tokens=tokens.flatten(1, 2)), chosen.flatten(1), num_kept), ()

    def budget_of(self, num_frames: int, num_cells: int) -> TokenBudget:
        """How many tokens a segment keeps.

        Args:
            num_frames: Frames of the segment, at least 1.
            num_cells: Patches of a frame.
        """
        each = max(1, int(num_cells * self.ratio))
        num_anchors = -(-num_frames // self.anchor_step)
        if self.budget == "each_frame":
            of_frame = int(each * self.target_share)
            salient = [each - of_frame] * num_frames
            targets = [of_frame * num_frames // num_anchors] * num_anchors
        else:
            num_targets = int(each * num_frames * self.target_share)
            salient = _spread(each * num_frames - num_targets, num_frames)
            targets = _spread(num_targets, num_anchors)
        most = [num_cells - salient[num_frames - 1 - number * self.anchor_step] for number in range(num_anchors)]
        return TokenBudget(salient, [min(pair) for pair in zip(targets, most, strict=True)])

    def merged(
        self, grid: Tensor, saliency: Tensor, frame_mask: Tensor, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor]:
        """Merge the patches of a segment.

        Args:
            grid: Patches, ``[V, L, N, D]``.
            saliency: Of every patch, ``[V, L, N]`` float32.
            frame_mask: Real frames, ``[V, L]`` bool, first in a segment.
            noise: See ``density_peaks``; for the anchors, the last one first.

        Returns:
            Patches ``[V, L, N, D]``, of which targets are replaced, and which of them to keep, ``[V, L, N]`` bool.
        """
        salient_counts, target_counts = self._counts(frame_mask, grid.shape[2])
        rank = saliency.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        is_salient = (rank < salient_counts.unsqueeze(2)) & frame_mask.unsqueeze(2)
        is_rest = ~is_salient & frame_mask.unsqueeze(2)
        anchors = self._anchors(grid, frame_mask, is_rest, target_counts, noise)
        tokens, chosen = grid.flatten(1, 2), is_salient.flatten(1)
        patches = tokens
        for number in range(anchors.frame.shape[1]):
            is_target = anchors.is_target[:, number]
            place = anchors.frame[:, number, None] * grid.shape[2] + anchors.cell[:, number]
            targets = CellClusters(
                patches.gather(1, place.unsqueeze(2).expand(-1, -1, patches.shape[2])), is_target, place
            )
            own = targets.on_grid(patches)[1]
            joins = is_rest.flatten(1)
            joins = joins if self.budget == "each_frame" else joins & ~own
            tokens = targets._replace(tokens=self._means(patches, joins, targets)).on_grid(tokens)[0]
            chosen = chosen | own
        return tokens.view_as(grid), chosen.view(grid.shape[:3])

    def _counts(self, frame_mask: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
        """Salient patches of every frame, ``[V, L]``, and targets of every anchor, ``[V, A]``; int64."""
        length = frame_mask.shape[1]
        num_anchors = -(-length // self.anchor_step)
        salient, targets = torch.zeros(length + 1, length).long(), torch.zeros(length + 1, num_anchors).long()
        for frames in range(1, length + 1):
            budget = self.budget_of(frames, num_cells)
            salient[frames, :frames] = torch.tensor(budget.salient)
            targets[frames, : len(budget.targets)] = torch.tensor(budget.targets)
        count = frame_mask.sum(dim=1)
        return salient.to(count.device, non_blocking=True)[count], targets.to(count.device, non_blocking=True)[count]

    def _anchors(
        self, grid: Tensor, frame_mask: Tensor, is_rest: Tensor, target_counts: Tensor, noise: Noise | None
    ) -> _Anchors:
        num_videos, length, num_cells, dim = grid.shape
        num_anchors = target_counts.shape[1]
        steps = self.anchor_step * torch.arange(num_anchors, device=grid.device)
        frame = frame_mask.sum(dim=1, keepdim=True) - 1 - steps  # [V, A], negative where there is none
        patches = grid.gather(1, frame.clamp(min=0)[:, :, None, None].expand(-1, -1, num_cells, dim))
        mask = is_rest.gather(1, frame.clamp(min=0).unsqueeze(2).expand(-1, -1, num_cells))
        mask = mask & (frame >= 0).unsqueeze(2)
        most = max(max(1, *self.budget_of(frames, num_cells).targets) for frames in range(1, length + 1))
        peaks = density_peaks(
            patches.flatten(0, 1),
            mask.flatten(0, 1),
            target_counts.flatten(),
            torch.full_like(target_counts, _NEIGHBOURS).flatten(),
            most=most,
            noise=noise,
        )
        of_anchors = (num_videos, num_anchors)
        return _Anchors(frame.clamp(min=0), peaks.centres.unflatten(0, of_anchors), peaks.mask.unflatten(0, of_anchors))

    def _means(self, patches: Tensor, joins: Tensor, targets: CellClusters) -> Tensor:
        """Each target ``[V, K, D]`` with the patches that are merged into it; any number where masked."""
        directions = functional.normalize(patches.detach().float(), dim=2)
        of_targets = functional.normalize(targets.tokens.detach().float(), dim=2)
        with full_precision(directions.device):
            similarity = directions @ of_targets.mT
        similarity = similarity.masked_fill(~targets.mask.unsqueeze(1), -torch.inf)
        members = functional.one_hot(similarity.argmax(dim=2), targets.mask.shape[1]).mT.float()
        members = members * joins.unsqueeze(1) * targets.mask.unsqueeze(2)
        weight = (1.0 / (members.sum(dim=2, keepdim=True) + 1.0)).clamp(min=self.target_weight)
        mixed = weight * targets.tokens.float() + (1.0 - weight) * cluster_means(patches.float(), members)
        return mixed.to(patches.dtype)


def _spread(total: int, parts: int) -> list[int]:
    """Split a number into almost equal ones, the larger first."""
    return [total // parts + int(number < total % parts) for number in range(parts)]
