"""Every reader, small, and random segments for it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from components.bridges.carrier_memory import CarrierMemory
from components.bridges.cluster_and_detail_memory import ClusterAndDetailMemory
from components.bridges.delta_rule_memory import DeltaRuleMemory
from components.bridges.flash_memory import FlashMemory
from components.bridges.fusers import TransformerFuser
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.bridges.layers.selective_update import SelectiveRecurrence
from components.bridges.mamba_memory import MambaMemory
from components.bridges.mean_pooling import MeanPooling
from components.bridges.merging_bank import MergingBank
from components.bridges.readouts.cache import CacheReadout
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.readouts.memory import MemoryReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.short_and_long_memory import ShortAndLongMemory
from components.bridges.summary_memory import SummaryMemory
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.interfaces import VisualReader
from components.readers.fine_frames import FineFrames
from components.readers.last_frames import LastFrames
from components.readers.novel_frames import NovelFrames
from components.readers.random_frames import RandomFrames
from components.readers.readouts.context_token import ContextToken
from components.readers.readouts.frame_queries import FrameQueries
from components.readers.readouts.ordered_resampler import OrderedResampler
from components.readers.readouts.pooled_grid import PooledGrid
from components.readers.readouts.question_guided_pooling import QuestionGuidedPooling
from components.readers.readouts.slow_fast import SlowFast
from components.readers.readouts.thumbnail_and_samples import ThumbnailAndSamples
from components.readers.similarity_merge import SimilarityMerge
from components.readers.token_store import TokenStore
from tests.components.readers.reader_runs import DIM, OUT_DIM

READOUTS: dict[str, Callable[..., Any]] = {
    "cache_and_memory": partial(CacheAndMemoryReadout, num_queries=5, num_heads=2),
    "cache": partial(CacheReadout, num_queries=5, num_heads=2),
    "memory": MemoryReadout,
    "last_segment": LastSegmentReadout,
    "memory_and_last_segment": partial(LastSegmentReadout, with_memory=True),
    "retrieved": partial(RetrievedReadout, num_queries=5, num_heads=2),
}


def recurrent(readout: str = "cache", *, gate: float = 0.7, **options: Any) -> RecurrentMemoryBridge:
    """A bridge whose gate is open, as after some training."""
    torch.manual_seed(0)
    settings = {"width": 8, "num_memory": 3, "num_heads": 2, "num_layers": 2, "recurrence": "replacing"} | options
    bridge = RecurrentMemoryBridge(DIM, OUT_DIM, readout=READOUTS[readout], **settings)
    nn.init.constant_(bridge.gate, gate)
    return bridge


def selective() -> RecurrentMemoryBridge:
    """A bridge that admits every segment; in evaluation mode, since training draws the gate at random."""
    bridge = recurrent("cache_and_memory", recurrence="selective")
    nn.init.constant_(bridge.update.of_memory.bias, 5.0)
    return bridge.eval()


def closed() -> RecurrentMemoryBridge:
    """A bridge that admits the first segment alone, so that it can forget the others."""
    bridge = selective()
    nn.init.constant_(bridge.update.of_memory.bias, -6.0)
    return bridge


def bounded() -> RecurrentMemoryBridge:
    """A bridge that admits every segment and holds two, of gates that differ."""
    bridge = recurrent("cache_and_memory", recurrence=SelectiveRecurrence(capacity=2))
    assert bridge.update is not None
    nn.init.constant_(bridge.update.of_memory.bias, 60.0)
    nn.init.normal_(bridge.update.of_memory.weight)
    return bridge.eval()


def published() -> VideoLLaMBBridge:
    """The published bridge; its memory tokens differ from the start, so that no test passes by their symmetry."""
    torch.manual_seed(0)
    bridge = VideoLLaMBBridge(DIM, OUT_DIM, num_memory=3, num_layers=2, num_heads=2, mlp_width=24)
    nn.init.normal_(bridge.initial_memory)
    return bridge.eval()


def grid_memory(**options: Any) -> GridMemory:
    """A grid memory whose cache is too small for the longest video of ``LENGTHS``."""
    torch.manual_seed(0)
    settings = {"num_cells": 4, "num_memory": 3, "num_heads": 2, "cache_limit": 2} | options
    return GridMemory(DIM, DIM, **settings)


def grid_memory_with(**options: Any) -> GridMemory:
    """A grid memory with these ``GridMemoryOptions``."""
    return grid_memory(options=GridMemoryOptions(**options))


def summary_memory(**options: Any) -> SummaryMemory:
    """A memory of summaries, in evaluation mode, since training draws the segments that it shows at random."""
    torch.manual_seed(0)
    settings = {"num_layers": 2, "num_heads": 2, "summary_tokens": 2} | options
    return SummaryMemory(DIM, OUT_DIM, **settings).eval()


def seeded(make: Callable[..., VisualReader[Any]], **options: Any) -> VisualReader[Any]:
    """A reader with weights from a fixed seed."""
    torch.manual_seed(0)
    return make(DIM, OUT_DIM, **options)


class Entry(NamedTuple):
    """One row of the table."""

    make: Callable[[], VisualReader[Any]]
    shows_every_frame: bool = True  # of videos as short as LENGTHS
    gives_written: bool = False
    out_dim: int = OUT_DIM
    constant_state: bool = False  # its pruned state has as many bytes for every video that is not short


READERS: dict[str, Entry] = {
    **{f"recurrent_{name}": Entry(partial(recurrent, name)) for name in ("cache_and_memory", "cache", "retrieved")},
    **{
        f"recurrent_{name}": Entry(partial(recurrent, name), gives_written=True)
        for name in ("memory", "last_segment", "memory_and_last_segment")
    },
    "not_recurrent": Entry(partial(recurrent, recurrence="none")),
    "selective": Entry(selective),
    "closed": Entry(closed, shows_every_frame=False),
    "bounded": Entry(bounded, shows_every_frame=False, constant_state=True),
    "published": Entry(published),
    "mean_pooling": Entry(partial(seeded, MeanPooling), constant_state=True),
    "fine_frames": Entry(partial(seeded, FineFrames), gives_written=True, constant_state=True),
    "few_fine_frames": Entry(
        partial(seeded, FineFrames, num_frames=2, capacity=3),
        shows_every_frame=False,
        gives_written=True,
        constant_state=True,
    ),
    "frames_with_positions_and_type": Entry(
        partial(seeded, FineFrames, frame_positions=True, type_embedding=True), gives_written=True, constant_state=True
    ),
    "grid_memory": Entry(grid_memory, gives_written=True, out_dim=DIM, constant_state=True),
    "grid_memory_transformer_fuser": Entry(
        partial(grid_memory, fuser=partial(TransformerFuser, num_heads=2)), out_dim=DIM, constant_state=True
    ),
    "grid_memory_budget": Entry(
        partial(grid_memory, options=GridMemoryOptions(max_tokens=11)),
        gives_written=True,
        out_dim=DIM,
        constant_state=True,
    ),
    "grid_memory_last": Entry(
        partial(grid_memory, options=GridMemoryOptions(shown="last")),
        gives_written=True,
        out_dim=DIM,
        constant_state=True,
    ),
    "grid_memory_recomputed": Entry(
        partial(grid_memory, options=GridMemoryOptions(recompute=True)),
        gives_written=True,
        out_dim=DIM,
        constant_state=True,
    ),
    "grid_memory_cut": Entry(
        partial(grid_memory, options=GridMemoryOptions(cut_gradients_every=1)),
        shows_every_frame=False,  # to gradients
        gives_written=True,
        out_dim=DIM,
        constant_state=True,
    ),
    "delta_rule_memory": Entry(partial(seeded, DeltaRuleMemory, num_heads=2, num_queries=5), constant_state=True),
    "delta_rule_memory_with_positions": Entry(
        partial(seeded, DeltaRuleMemory, width=8, num_heads=2, num_queries=5, frame_positions=True), constant_state=True
    ),
    "mamba_memory": Entry(
        partial(seeded, MambaMemory, width=8, num_layers=2, state_size=4, num_queries=3), constant_state=True
    ),
    "summary_memory": Entry(summary_memory, gives_written=True),
    "summary_memory_of_one_segment": Entry(
        partial(summary_memory, num_chosen=1, neighbours=1), shows_every_frame=False, gives_written=True
    ),
    "token_store": Entry(partial(seeded, TokenStore), gives_written=True),
    "pooled_grid": Entry(partial(seeded, TokenStore, readout=partial(PooledGrid, shape=(2, 1, 2)))),
    "context_token": Entry(partial(seeded, TokenStore, readout=ContextToken)),
    "context_and_grid": Entry(partial(seeded, TokenStore, readout=partial(ContextToken, content="grid", grid=2))),
    "frame_queries": Entry(
        partial(seeded, TokenStore, readout=partial(FrameQueries, num_queries=2, width=8, num_layers=2, num_heads=2))
    ),
    "slow_fast": Entry(partial(seeded, TokenStore, readout=partial(SlowFast, every=2))),
    "newlines": Entry(partial(seeded, TokenStore, readout=partial(SlowFast, every=1, newlines="frames"))),
    "thumbnail_and_samples": Entry(
        partial(seeded, TokenStore, readout=partial(ThumbnailAndSamples, frames=2, samples=40))
    ),
    "few_samples": Entry(
        partial(seeded, TokenStore, readout=partial(ThumbnailAndSamples, frames=4, samples=3)), shows_every_frame=False
    ),
    "question_guided_pooling": Entry(
        partial(seeded, TokenStore, readout=partial(QuestionGuidedPooling, window=(1, 2, 1), temperature=1.0, space=4))
    ),
    "ordered_resampler": Entry(
        partial(seeded, TokenStore, readout=partial(OrderedResampler, num_queries=3, num_heads=2))
    ),
    "elastic_resampler": Entry(
        partial(seeded, TokenStore, readout=partial(OrderedResampler, num_queries=5, num_heads=2, keys="position"))
    ),
    **{
        f"{name}_{num_frames}": Entry(
            partial(seeded, bank, num_frames=num_frames),
            shows_every_frame=num_frames > 6,
            gives_written=True,
            constant_state=True,
        )
        for name, bank in (("last_frames", LastFrames), ("random_frames", RandomFrames), ("novel_frames", NovelFrames))
        for num_frames in (2, 8)
    },
    "similarity_merge_2": Entry(partial(seeded, SimilarityMerge, num_frames=2), constant_state=True),
    "similarity_merge_8": Entry(
        partial(seeded, SimilarityMerge, num_frames=8, frame_positions=True), constant_state=True
    ),
    "short_and_long_memory": Entry(
        partial(seeded, ShortAndLongMemory, frames_a_segment=2, long_length=3), constant_state=True
    ),
    "short_and_long_memory_published": Entry(
        partial(seeded, ShortAndLongMemory, frames_a_segment=1, long_length=2, as_published=True)
    ),
    "carrier_memory": Entry(partial(seeded, CarrierMemory, max_carriers=8), constant_state=True),
    "merging_bank": Entry(partial(seeded, MergingBank, num_memory=2, num_queries=3, num_heads=2), constant_state=True),
    "merging_bank_without_query_bank": Entry(
        partial(seeded, MergingBank, num_memory=9, num_queries=3, num_heads=2, query_bank=False)
    ),
    "merging_bank_published": Entry(
        partial(seeded, MergingBank, num_memory=2, num_queries=3, num_heads=2, as_published=True),
        shows_every_frame=False,  # to gradients
    ),
    "flash_memory": Entry(
        partial(seeded, FlashMemory, long_length=3, long_grid=1, abstract_length=2, num_keys=1, detail_grid=2, hidden=4)
    ),
    "cluster_and_detail_memory": Entry(
        partial(seeded, ClusterAndDetailMemory, num_clusters=3, cluster_grid=1, num_details=2)
    ),
    "few_carriers": Entry(partial(seeded, CarrierMemory, max_carriers=3), shows_every_frame=False),
}
