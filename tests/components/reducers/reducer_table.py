"""Every reducer, with settings for small videos."""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from components.building import MakeReducer
from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.anchor_merge import AnchorMerge
from components.reducers.clip_merge import ClipMerge
from components.reducers.event_clusters import EventClusters
from components.reducers.frame_merge import FrameMerge
from components.reducers.norm_top_merge import NormTopMerge
from components.reducers.novelty_pruner import NoveltyPruner
from components.reducers.pair_token_drop import PairTokenDrop
from components.reducers.saliency_tokens import SaliencyTokens
from components.reducers.sequential import Sequential
from components.reducers.static_and_moving import StaticAndMoving
from components.reducers.static_merge import StaticMerge
from components.reducers.temporal_token_drop import TemporalTokenDrop


class Narrow(SegmentReducer[Tensor]):
    """Halves the width of every token; its state counts the frames."""

    gives_grid = True
    reads_kept_tokens = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim // 2
        self.projection = nn.Linear(dim, self.out_dim)

    def forward(self, segment: SegmentInput, state: Tensor | None) -> tuple[SegmentInput, Tensor]:
        count = segment.frame_mask.sum(dim=1)
        return segment._replace(tokens=self.projection(segment.tokens)), count if state is None else state + count


class ReducerEntry(NamedTuple):
    """One row of the table."""

    make: MakeReducer
    merges: bool = False  # gives means of tokens; otherwise it drops some and leaves the others as they are
    keeps_every_frame: bool = True  # leaves a token of every real frame; otherwise at least one of every segment
    places_repeat: bool = False  # gives several tokens at one place
    has_state: bool = True  # False: its state is ()


REDUCERS: dict[str, ReducerEntry] = {
    "threshold": ReducerEntry(partial(TemporalTokenDrop, threshold=0.6)),
    "ratio": ReducerEntry(partial(TemporalTokenDrop, ratio=0.7)),
    "last_kept": ReducerEntry(partial(TemporalTokenDrop, threshold=0.9, reference="last_kept")),
    "last_kept_ratio": ReducerEntry(partial(TemporalTokenDrop, ratio=0.5, reference="last_kept")),
    "saliency": ReducerEntry(partial(SaliencyTokens, rate=0.4), has_state=False),
    "shared_saliency": ReducerEntry(
        partial(SaliencyTokens, rate=0.4, budget="shared"), has_state=False, keeps_every_frame=False
    ),
    "norm_top": ReducerEntry(partial(NormTopMerge, rate=0.7, threshold=0.3), merges=True, has_state=False),
    "norm_top_published": ReducerEntry(
        partial(NormTopMerge, rate=0.7, threshold=0.3, as_published=True), merges=True, has_state=False
    ),
    "frame_merge": ReducerEntry(partial(FrameMerge, rounds=1), merges=True, has_state=False),
    "frame_merge_weighted": ReducerEntry(partial(FrameMerge, rounds=2, weighted=True), merges=True, has_state=False),
    "clip_merge": ReducerEntry(
        partial(ClipMerge, tokens_a_frame=2), merges=True, has_state=False, keeps_every_frame=False
    ),
    "segment_merge": ReducerEntry(
        partial(ClipMerge, tokens=3, heads=2), merges=True, has_state=False, keeps_every_frame=False
    ),
    "pairs": ReducerEntry(partial(PairTokenDrop, drop=0.6), has_state=False),
    "pairs_published": ReducerEntry(
        partial(PairTokenDrop, drop=0.6, as_published=True), has_state=False, keeps_every_frame=False
    ),
    "novelty": ReducerEntry(partial(NoveltyPruner, rate=0.5)),
    "novelty_published": ReducerEntry(partial(NoveltyPruner, rate=0.5, as_published=True)),
    "event_clusters": ReducerEntry(
        partial(EventClusters, num_clusters=(4, 2, 1), event_rate=0.5),
        merges=True,
        keeps_every_frame=False,
        places_repeat=True,
        has_state=False,
    ),
    "static_merge": ReducerEntry(
        partial(StaticMerge, ratio=0.4, threshold=0.3, merged=0.5),
        merges=True,
        has_state=False,
        keeps_every_frame=False,
    ),
    "static_merge_salient": ReducerEntry(
        partial(StaticMerge, ratio=0.5, threshold=0.3), merges=True, has_state=False, keeps_every_frame=False
    ),
    "static_and_moving": ReducerEntry(
        partial(StaticAndMoving, threshold=0.6, num_neighbours=2, unclustered=2),
        merges=True,
        keeps_every_frame=False,
        has_state=False,
    ),
    "anchor_merge": ReducerEntry(partial(AnchorMerge, ratio=0.5, anchor_step=2), merges=True, has_state=False),
    "anchor_merge_each_frame": ReducerEntry(
        partial(AnchorMerge, ratio=0.7, anchor_step=2, budget="each_frame"), merges=True, has_state=False
    ),
    "sequential": ReducerEntry(
        partial(Sequential, reducers=[Narrow, partial(TemporalTokenDrop, threshold=0.6), Narrow])
    ),
}
