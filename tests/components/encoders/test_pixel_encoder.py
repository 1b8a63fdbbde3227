from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.encoders.pixel_encoder import FrameChunk, PixelEncoder
from components.interfaces import FrameFeatures
from components.sharding import Sharding, building_sharded

SIDE = 4


class TinyEncoder(PixelEncoder):
    """Gives each frame its brightest pixel and the mean brightness of its window; records its chunks."""

    title = "the tiny encoder"

    def __init__(self, max_frames_per_call: int = 64, *, frozen: bool = True) -> None:
        super().__init__(max_frames_per_call)
        self.dim, self.num_patches, self.image_size = 2, 1, SIDE
        self.chunks: list[FrameChunk] = []
        networks = nn.ModuleList(nn.Linear(2, 2) for _ in range(self.num_networks))
        self.networks = self.prepared(networks, torch.float32, frozen=frozen)

    def encode_chunk(self, chunk: FrameChunk) -> FrameFeatures:
        self.chunks.append(chunk)
        bright = chunk.frames.float().flatten(1) / 255
        windows = bright.mean(dim=1).split(list(chunk.window_lengths))
        means = torch.cat([window.mean().expand(len(window)) for window in windows])
        cls = self.networks[chunk.network](torch.stack([bright.amax(dim=1), means], dim=1))
        return FrameFeatures(cls, cls.unsqueeze(1), saliency=bright.amax(dim=1, keepdim=True))


class WindowEncoder(TinyEncoder):
    window_frames = 4


class WholeVideoEncoder(TinyEncoder):
    window_frames = None


class TwoNetworkEncoder(WindowEncoder):
    num_networks = 2

    def network_of(self, num_frames: int) -> int:
        return int(num_frames > 1)


class PretendedRanks(Sharding):
    """A strategy whose busiest rank makes more calls than this one; the answers are the numbers asked for."""

    def __init__(self, more: int) -> None:
        self.more = more
        self.asked: list[int] = []
        self.encoders: list[TinyEncoder] = []

    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        pass

    def largest_of_all_ranks(self, value: int) -> int:
        assert not self.encoders or not self.encoders[0].chunks, "a rank that encodes gathers weights meanwhile"
        self.asked.append(value)
        return value + self.more


@contextmanager
def ranks_that_make(more: int) -> Iterator[PretendedRanks]:
    ranks = PretendedRanks(more)
    with building_sharded(ranks):
        yield ranks


def random_frames(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def encoded_singly(encoder: TinyEncoder, frames: Tensor, counts: list[int]) -> FrameFeatures:
    singles = [encoder(video, torch.tensor([len(video)])) for video in frames.split(counts)]
    return FrameFeatures(*(None if field[0] is None else torch.cat(field) for field in zip(*singles, strict=True)))


@pytest.mark.parametrize("make", [TinyEncoder, WindowEncoder, WholeVideoEncoder, TwoNetworkEncoder])
@pytest.mark.parametrize("counts", [[9, 1, 3, 1, 1, 4], [1] * 6, [13]])
def test_every_division_into_chunks_gives_the_features_of_single_videos(make: Any, counts: list[int]) -> None:
    torch.manual_seed(0)
    whole, chunked = make(), make(4)
    chunked.load_state_dict(whole.state_dict())
    frames = random_frames(sum(counts))
    expected = encoded_singly(whole, frames, counts)
    for encoder in (whole, chunked):
        torch.testing.assert_close(encoder(frames, torch.tensor(counts)), expected)


@pytest.mark.parametrize("make", [TinyEncoder, WindowEncoder, TwoNetworkEncoder])
def test_no_chunk_has_more_frames_than_allowed(make: Any) -> None:
    encoder = make(8)
    encoder(random_frames(31), torch.tensor([9, 1, 20, 1]))
    assert sum(len(chunk.frames) for chunk in encoder.chunks) == 31
    assert max(len(chunk.frames) for chunk in encoder.chunks) <= 8


def test_chunks_divide_no_window() -> None:
    encoder = WindowEncoder(8)
    encoder(random_frames(20), torch.tensor([9, 11]))
    assert [list(chunk.window_lengths) for chunk in encoder.chunks] == [[4, 4], [1, 4], [4, 3]]
    whole = WholeVideoEncoder(8)
    whole(random_frames(20), torch.tensor([3, 3, 9, 5]))
    assert [list(chunk.window_lengths) for chunk in whole.chunks] == [[3, 3], [9], [5]]


def test_each_network_gets_its_videos_only() -> None:
    encoder = TwoNetworkEncoder()
    encoder(random_frames(10), torch.tensor([1, 8, 1]))
    assert [(chunk.network, list(chunk.window_lengths)) for chunk in encoder.chunks] == [(0, [1, 1]), (1, [4, 4])]


@pytest.mark.parametrize("counts", [[], [1, 1], [4, 8], [1, 12]])
def test_ranks_make_as_many_calls_of_every_network_as_the_busiest(counts: list[int]) -> None:
    with ranks_that_make(more=2) as ranks:
        encoder = TwoNetworkEncoder(8)
    ranks.encoders.append(encoder)
    features = encoder(random_frames(sum(counts)), torch.tensor(counts, dtype=torch.int64))
    assert features.cls.shape == (sum(counts), 2)
    assert len(ranks.asked) == 2
    assert min(ranks.asked) >= 1  # some rank may have videos for this network
    calls = [sum(chunk.network == network for chunk in encoder.chunks) for network in range(2)]
    assert calls == [own + 2 for own in ranks.asked]


def test_further_calls_change_no_feature() -> None:
    torch.manual_seed(0)
    alone = TwoNetworkEncoder()
    with ranks_that_make(more=1):
        one_of_several = TwoNetworkEncoder()
    one_of_several.load_state_dict(alone.state_dict())
    frames, counts = random_frames(6), torch.tensor([5, 1])
    assert_equal = torch.testing.assert_close
    assert_equal(one_of_several(frames, counts), alone(frames, counts), rtol=0, atol=0)


def test_no_frames_give_no_features() -> None:
    features = TwoNetworkEncoder()(random_frames(0), torch.zeros(0, dtype=torch.int64))
    assert (features.cls.shape, features.patches.shape) == ((0, 2), (0, 1, 2))
    assert features.saliency is not None
    assert features.saliency.shape == (0, 1)


def test_frozen_encoder_stays_in_eval_mode_and_gives_no_gradients() -> None:
    encoder = TinyEncoder()
    assert not encoder.training
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(random_frames(2), torch.tensor([2])).cls.requires_grad


def test_trained_encoder_switches_to_training_mode() -> None:
    encoder = TinyEncoder(frozen=False)
    assert encoder.training
    assert not encoder.eval().training
    assert encoder.train().networks.training


@pytest.mark.parametrize("counts", [[], [1], [3], [1, 3]])
def test_every_trained_network_is_in_the_graph_of_every_batch(counts: list[int]) -> None:
    encoder = TwoNetworkEncoder(frozen=False)
    encoder(random_frames(sum(counts)), torch.tensor(counts, dtype=torch.int64)).cls.sum().backward()
    gradients = [network.weight.grad for network in encoder.networks]
    assert all(gradient is not None for gradient in gradients)
    used = {int(count > 1) for count in counts}
    assert {index for index, gradient in enumerate(gradients) if bool(gradient.any())} == used


def test_counts_of_other_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frame_counts \[2, 3\] sum to 5, but 4 frames are packed"):
        TinyEncoder()(random_frames(4), torch.tensor([2, 3]))


@pytest.mark.parametrize(("make", "limit"), [(TinyEncoder, 0), (WindowEncoder, 6), (WindowEncoder, 0)])
def test_limits_that_no_window_fits_are_refused(make: Any, limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_frames_per_call must be .*, got {limit}"):
        make(limit)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the tiny encoder reads uint8 frames \[F, 3, 4, 4\]"):
        TinyEncoder()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([1]))
