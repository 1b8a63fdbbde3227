"""Models whose readers read fewer tokens: training, answers, streaming, and what is refused when they are built."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.building import ReaderSettings
from components.flops.step import ModelFlops, work_of
from components.interfaces import Questions, SegmentInput, SegmentReducer, VisualReader, VisualTokens
from components.pooling.patch_pooling import ConvPooling
from components.readers.token_store import TokenStore
from components.reducers.sequential import Sequential
from components.reducers.temporal_token_drop import TemporalTokenDrop
from components.streaming import StreamingSession
from datamodules.batch import Batch, collate
from tests.fixtures_models import (
    NUM_PATCHES,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_model,
    make_module,
    make_sample,
)

drop = partial(TemporalTokenDrop, threshold=0.7)
BRIDGES: dict[str, Callable[[int, int], VisualReader[Any]]] = {
    "cache": make_bridge,
    "last_segment": partial(make_bridge, readout=partial(LastSegmentReadout, with_memory=True)),
    "published": partial(VideoLLaMBBridge, num_memory=3, num_heads=2, mlp_width=32),
    "mean_pooling": MeanPooling,
    "all_tokens": TokenStore,
}
every_bridge = pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
REDUCERS: dict[str, Callable[[int], SegmentReducer[Any]]] = {
    "threshold": drop,
    "ratio": partial(TemporalTokenDrop, ratio=0.5, reference="last_kept"),
    "sequential": partial(Sequential, reducers=[drop]),
}
every_reducer = pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)


def slow_frames(num_frames: int, seed: int) -> Tensor:
    """Pictures that change in one quarter at a time, so that some patches repeat."""
    pictures = make_frames(num_frames, seed=seed)
    side = pictures.shape[2] // 2
    for frame in range(1, num_frames):
        row, column = divmod(frame % 4, 2)
        changed = (slice(None), slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
        new = pictures[frame][changed].clone()
        pictures[frame] = pictures[frame - 1]
        pictures[frame][changed] = new
    return pictures


def asked(folders: PartFolders, frames: Tensor) -> Batch:
    return collate([make_sample(folders, "so far", frames, [[("which colour ?", "red")]])])


def tokens_read(model: Any, batch: Batch) -> list[tuple[int, int]]:
    """Real and computed tokens of every segment that the bridge reads."""
    found = []
    handle = model.bridge.register_forward_pre_hook(
        lambda _, args: found.append((int(args[0].token_mask.sum()), args[0].tokens.shape[1]))
    )
    with torch.no_grad():
        model.visual_tokens(batch)
    handle.remove()
    return found


@every_bridge
@every_reducer
def test_trains_a_step_and_answers(
    folders: PartFolders, bridge: Callable[[int, int], Any], reducer: Callable[[int], Any]
) -> None:
    model = make_module(folders, bridge=bridge, reducer=reducer).built
    output = model(make_batch(folders))
    output.loss.backward()
    assert output.loss.isfinite()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(model.eval().generate(make_batch(folders), max_new_tokens=2)) == 5


@every_bridge
@every_reducer
def test_streamed_video_equals_offline_at_every_moment(
    folders: PartFolders, bridge: Callable[[int, int], Any], reducer: Callable[[int], Any]
) -> None:
    model = make_model(folders, bridge=bridge, reducer=reducer)
    frames = slow_frames(7, seed=4)
    session = StreamingSession(model)
    for count in range(1, len(frames) + 1):
        session.push(frames[count - 1 : count], [1000 * (count - 1)])
        now = session.visual_tokens(model.language_model.prompts(["which colour ?"]))
        with torch.no_grad():
            offline = model.visual_tokens(asked(folders, frames[:count]))
        torch.testing.assert_close(now.tokens[now.mask], offline.tokens[offline.mask], rtol=1e-5, atol=1e-5)


@every_bridge
@every_reducer
def test_mixed_batch_equals_its_items(
    folders: PartFolders, bridge: Callable[[int, int], Any], reducer: Callable[[int], Any]
) -> None:
    model = make_model(folders, bridge=bridge, reducer=reducer)
    together = model(make_batch(folders))
    alone = [model(collate([sample])) for sample in make_mixed_samples(folders)]
    tokens = sum(output.num_answer_tokens for output in alone)
    expected = sum(output.loss * output.num_answer_tokens for output in alone) / tokens
    torch.testing.assert_close(together.loss, expected, rtol=0, atol=1e-5)


def test_bridge_computes_fewer_tokens(folders: PartFolders) -> None:
    batch = asked(folders, slow_frames(6, seed=4))
    model = make_model(folders, reducer=drop)
    full = tokens_read(make_model(folders), batch)
    reduced = tokens_read(model, batch)
    assert full == [(2 * NUM_PATCHES, 2 * NUM_PATCHES)] * 3
    assert all(real == computed < 2 * NUM_PATCHES for real, computed in reduced)
    assert reduced[0][0] > NUM_PATCHES  # the first frame and what has changed in the second


def test_model_in_which_nothing_is_dropped_is_the_model_without_a_reducer(folders: PartFolders) -> None:
    for bridge in BRIDGES.values():
        plain = make_model(folders, bridge=bridge)(make_batch(folders)).loss
        kept = make_model(folders, bridge=bridge, reducer=partial(TemporalTokenDrop, threshold=1.0))
        torch.testing.assert_close(kept(make_batch(folders)).loss, plain, rtol=1e-5, atol=1e-5)


def test_visual_tokens_are_those_of_the_changed_quarters_at_their_places(folders: PartFolders) -> None:
    frames = slow_frames(5, seed=4)
    model = make_model(folders, bridge=TokenStore, reducer=drop)
    full = make_model(folders, bridge=TokenStore)
    with torch.no_grad():
        kept, every = model.visual_tokens(asked(folders, frames)), full.visual_tokens(asked(folders, frames))
    assert kept.places is not None
    index = kept.places.frame * NUM_PATCHES + kept.places.cell
    assert kept.tokens.shape[1] < every.tokens.shape[1] == 5 * NUM_PATCHES
    torch.testing.assert_close(kept.tokens[0], every.tokens[0, index[0]])
    assert kept.places.ms.tolist() == (1000 * kept.places.frame).tolist()
    assert kept.places.frame.unique().tolist() == [0, 1, 2, 3, 4]


def test_reducer_reads_what_the_patch_pooling_gives(folders: PartFolders) -> None:
    pooling = partial(ConvPooling, stride=2, out_dim=8)
    model = make_model(folders, patch_pooling=pooling, reducer=drop)
    assert tokens_read(model, asked(folders, make_frames(4))) == [(2, 2), (2, 2)]  # the only patch of each frame
    assert model.reducers["memory"].out_dim == 8


def test_each_reader_has_a_reducer_of_its_own(folders: PartFolders) -> None:
    readers = {
        "memory": ReaderSettings(make_bridge, reducer=drop),
        "mean": ReaderSettings(MeanPooling),
    }
    model = make_model(folders, bridge=None, readers=readers)
    assert list(model.reducers) == ["memory"]
    with torch.no_grad():
        states = model.read_videos(model.packed_videos(asked(folders, slow_frames(4, seed=0)))).last
    assert states["memory"].reducer is not None
    assert states["mean"].reducer is None


class GridReader(MeanPooling):
    """Reads full grids only."""

    reads_kept_tokens = False

    def read(self, state: Any, questions: Questions | None = None, *, budget: int | None = None) -> VisualTokens:
        return super().read(state)


def test_reader_of_full_grids_after_a_reducer_is_refused_when_the_model_is_built(folders: PartFolders) -> None:
    message = "is a GridReader, which reads full grids, but the reducer TemporalTokenDrop leaves tokens out"
    with pytest.raises(ValueError, match=message):
        make_module(folders, bridge=GridReader, reducer=drop)


class OfSalient(SegmentReducer[Tensor]):
    """Needs the saliency of patches."""

    reads_saliency = True
    gives_grid = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, segment: SegmentInput, state: Tensor | None) -> tuple[SegmentInput, Tensor]:
        return segment, segment.frame_mask


@pytest.mark.parametrize("reducer", [OfSalient, partial(Sequential, reducers=[OfSalient, drop])])
def test_saliency_that_the_encoder_does_not_give_is_refused_when_the_model_is_built(
    folders: PartFolders, reducer: Callable[[int], Any]
) -> None:
    with pytest.raises(ValueError, match="reads the saliency of patches, which this encoder does not give"):
        make_module(folders, reducer=reducer)


@pytest.mark.parametrize("num_frames", [1, 6])
def test_operations_are_counted_exactly_with_a_ratio_and_at_most_with_a_threshold(
    folders: PartFolders, num_frames: int
) -> None:
    batch = asked(folders, slow_frames(num_frames, seed=0))

    def counted(reducer: Callable[[int], Any] | None) -> float:
        model = make_module(folders, reducer=reducer).built.train()
        return ModelFlops(model).of(work_of(batch, model(batch))).readers

    assert counted(drop) == counted(None)
    if num_frames > 1:
        assert counted(partial(TemporalTokenDrop, ratio=0.5)) < counted(None)
