"""What the bridges leave out must not show: the same numbers and gradients as with everything computed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.bridges.layers import attention, post_norm
from components.bridges.layers.attention import Attention, TransformerBlock
from components.bridges.layers.few_queries import few_queries_are_cheaper
from components.bridges.layers.post_norm import PostNormAttention, PostNormBlock
from components.bridges.readouts.cache import CacheReadout
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.readouts.memory import MemoryReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.interfaces import SegmentInput, VisualReader

DIM, OUT_DIM, MEMORY, PATCHES = 16, 12, 3, 4
LENGTHS = ((2, 3, 1), (3, 1, 0), (1, 0, 0))  # frames of every segment of three videos; 0 where a video has none

Bridge = VisualReader[Any]
Gradients = dict[str, Tensor]


def build_published() -> VideoLLaMBBridge:
    bridge = VideoLLaMBBridge(DIM, OUT_DIM, num_memory=MEMORY, num_layers=2, num_heads=4, mlp_width=24)
    nn.init.normal_(bridge.initial_memory)
    return bridge.eval()


def build_recurrent(readout: Callable[[int, int], Any], recurrence: Any = "replacing") -> RecurrentMemoryBridge:
    sizes = {"num_memory": MEMORY, "num_layers": 2, "num_heads": 4}
    bridge = RecurrentMemoryBridge(DIM, OUT_DIM, **sizes, recurrence=recurrence, readout=readout)
    nn.init.constant_(bridge.gate, 0.7)
    return bridge


BRIDGES: dict[str, Callable[[], Bridge]] = {
    "published": build_published,
    "cache": partial(build_recurrent, partial(CacheReadout, num_heads=2)),
    "memory": partial(build_recurrent, MemoryReadout),
    "selective": partial(build_recurrent, partial(CacheAndMemoryReadout, num_heads=2), "selective"),
    "last_segment": partial(build_recurrent, partial(LastSegmentReadout, with_memory=True)),
}
every_bridge = pytest.mark.parametrize("build", BRIDGES.values(), ids=BRIDGES)


class ComputeEverything(nn.Module):
    """A block that computes all tokens and then gives the part that was asked for."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, mask: Tensor | None, part: slice = slice(None)) -> Tensor:
        everything: Tensor = self.block(tokens, mask)
        return everything[:, part]


def segments() -> list[SegmentInput]:
    """The videos side by side; what is masked holds large numbers."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for lengths in zip(*LENGTHS, strict=True):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        patches = torch.randn(len(lengths), max(lengths), PATCHES, DIM, generator=generator)
        patches = torch.where(mask[..., None, None], patches, 50.0)
        steps.append(SegmentInput.from_grid(patches, mask, torch.arange(max(lengths)).expand(mask.shape) * 500))
    return steps


def readings(bridge: Bridge) -> list[Tensor]:
    """The real visual tokens of all videos after every segment."""
    torch.manual_seed(0)  # a selective memory draws what it admits
    state, read = None, []
    for segment in segments():
        state = bridge(segment, state)
        visual = bridge.read(state)
        read.append(visual.tokens[visual.mask])
    return read


def gradients(bridge: Bridge, tokens: list[Tensor]) -> Gradients:
    """Gradient of every weight of the bridge, whatever it is wrapped in."""
    bridge.zero_grad()
    sum(each.square().sum() for each in tokens).backward()  # type: ignore[union-attr]
    named = {name.replace(".block.", "."): weight.grad for name, weight in bridge.named_parameters()}
    assert all(gradient is not None for gradient in named.values())
    return {name: gradient for name, gradient in named.items() if gradient is not None}


def assert_equal_gradients(ours: Gradients, theirs: Gradients) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-4, atol=1e-4), name


@every_bridge
@pytest.mark.parametrize("reading", ["last", "every"])
def test_computing_only_what_is_read_changes_neither_tokens_nor_gradients(
    build: Callable[[], Bridge], reading: str
) -> None:
    torch.manual_seed(0)
    bridge = build()
    read = slice(-1, None) if reading == "last" else slice(None)
    ours = readings(bridge)[read]
    our_gradients = gradients(bridge, ours)
    assert isinstance(bridge.layers, nn.ModuleList)
    bridge.layers = nn.ModuleList(ComputeEverything(layer) for layer in bridge.layers)
    theirs = readings(bridge)[read]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(our_gradients, gradients(bridge, theirs))


@every_bridge
def test_projecting_few_queries_instead_of_all_tokens_changes_neither_tokens_nor_gradients(
    build: Callable[[], Bridge], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    bridge = build()
    results = []
    for is_cheaper in (True, False):
        for module in (attention, post_norm):
            monkeypatch.setattr(module, "few_queries_are_cheaper", lambda *_, cheap=is_cheaper: cheap)
        tokens = readings(bridge)
        results.append((tokens, gradients(bridge, tokens)))
    (few, few_gradients), (all_tokens, all_gradients) = results
    for one, other in zip(few, all_tokens, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(few_gradients, all_gradients)


@pytest.mark.parametrize("make", [Attention, partial(PostNormAttention, dropout=0.0)], ids=["attention", "post_norm"])
def test_a_mask_without_padding_may_be_left_out(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    attend, context = make(DIM, 4), torch.randn(2, 9, DIM)
    full = torch.ones(2, 9, dtype=torch.bool)
    for num_queries in (1, 9):  # on either side of where projecting the queries pays
        queries = context[:, :num_queries]
        torch.testing.assert_close(attend(queries, context, None), attend(queries, context, full))
    assert few_queries_are_cheaper(1, 9, 4, DIM)
    assert not few_queries_are_cheaper(9, 9, 4, DIM)


def test_dropped_weights_drop_the_values_bias_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attend, context = PostNormAttention(DIM, 4, dropout=0.5), torch.randn(1, 9, DIM)
    means = []
    for is_cheaper in (True, False):
        monkeypatch.setattr(post_norm, "few_queries_are_cheaper", lambda *_, cheap=is_cheaper: cheap)
        torch.manual_seed(1)
        with torch.no_grad():
            runs = torch.stack([attend(context[:, :2], context, None) for _ in range(4000)])
        means.append((runs.mean(dim=0), runs.std(dim=0)))
    (few_mean, few_std), (all_mean, all_std) = means
    torch.testing.assert_close(few_mean, all_mean, rtol=0, atol=0.1)
    torch.testing.assert_close(few_std, all_std, rtol=0, atol=0.1)


@pytest.mark.parametrize("block", [TransformerBlock(DIM, 4), PostNormBlock(DIM, 4, 24, dropout=0.0)])
@pytest.mark.parametrize("part", [slice(2), slice(2, None), slice(0)])
def test_a_block_gives_the_part_that_is_asked_for(block: nn.Module, part: slice) -> None:
    tokens, mask = torch.randn(2, 7, DIM), torch.arange(7) < torch.tensor([[7], [4]])
    torch.testing.assert_close(block(tokens, mask, part), block(tokens, mask)[:, part], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("readout", [CacheReadout, MemoryReadout])
def test_a_readout_that_reads_no_patch_tokens_costs_none(readout: Callable[[int, int], Any]) -> None:
    torch.manual_seed(0)
    bridge = build_recurrent(readout)
    widths: list[int] = []
    bridge.layers[-1].mlp.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))  # type: ignore[union-attr]
    state = None
    for segment in segments():
        state = bridge(segment, state)
    assert state is not None
    assert widths == [MEMORY] * len(segments())
    assert state.last_input.shape[1] == state.token_mask.shape[1] == 0


def test_the_published_bridge_computes_patch_tokens_once_a_reading() -> None:
    torch.manual_seed(0)
    bridge = build_published()
    widths: list[int] = []
    bridge.layers[-1].widen.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))  # type: ignore[union-attr]
    state = None
    for segment in segments():
        state = bridge(segment, state)
    assert state is not None
    bridge.read(state)
    assert widths == [MEMORY] * len(segments()) + [max(max(lengths) for lengths in LENGTHS) * PATCHES]
