from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.encoders.languagebind_transformer import FrameWindows, SpaceTimeLayer
from components.encoders.languagebind_weights import load_vision_transformer
from components.interfaces import FrameFeatures
from components.sharding import Sharding, building_sharded
from tests.components.encoders.languagebind_folders import (
    Folders,
    assert_close,
    build,
    normalised,
    random_frames,
    write_folders,
)

CPU = torch.device("cpu")


class OneRank(Sharding):
    """A strategy of one rank that shards nothing."""

    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        pass

    def largest_of_all_ranks(self, value: int) -> int:
        return value


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return write_folders(tmp_path)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
def test_encoder_gives_the_chosen_layer(layer: int, folders: Folders) -> None:
    whole = build(folders, layer=-1)
    frames = random_frames(9)  # an image and a video of one window
    with torch.no_grad():
        image_states = list(whole.image_transformer.hidden_states(normalised(frames[:1])))
        windows = FrameWindows.of_lengths([8], CPU)
        video_states = list(whole.video_transformer.hidden_states(normalised(frames[1:]), windows))
    expected = torch.cat([image_states[layer], video_states[layer]])
    features = build(folders, layer=layer)(frames, torch.tensor([1, 8]))
    assert_close(features, FrameFeatures(expected[:, 0], expected[:, 1:]))


@pytest.mark.parametrize("counts", [[3, 8, 11], [1, 3, 1, 8, 11, 1], [8, 1, 16], [2, 17], [1, 1]])
def test_packed_videos_equal_single_videos(counts: list[int], folders: Folders) -> None:
    encoder = build(folders)
    frames = random_frames(sum(counts))
    singles = [encoder(video, torch.tensor([len(video)])) for video in torch.split(frames, counts)]
    packed = encoder(frames, torch.tensor(counts))
    assert_close(packed, FrameFeatures.joined(singles))


def test_windows_of_a_video_do_not_see_each_other(folders: Folders) -> None:
    encoder = build(folders)
    frames = random_frames(11)
    whole = encoder(frames, torch.tensor([11]))
    parts = [encoder(frames[:8], torch.tensor([8])), encoder(frames[8:], torch.tensor([3]))]
    assert_close(whole, FrameFeatures.joined(parts))


@pytest.mark.parametrize("frames_in_window", [2, 3, 7])
def test_short_window_attends_to_its_own_frames_only(frames_in_window: int, folders: Folders) -> None:
    transformer = load_vision_transformer(str(folders.video), layer=1, temporal=True, dtype=torch.float32)
    layer = transformer.encoder.layers[0]
    assert isinstance(layer, SpaceTimeLayer)
    tokens = torch.randn(frames_in_window, 17, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixed = layer(tokens, FrameWindows.of_lengths([frames_in_window], CPU))
        # The same by definition, in loops: one token position at a time, no padding and no mask.
        moved = tokens + layer.temporal_embedding[0, :frames_in_window, None]
        by_position = [
            layer.temporal_attn(layer.temporal_layer_norm1(moved[:, position])[None])[0] for position in range(17)
        ]
        expected = moved + torch.stack(by_position, dim=1)
        expected = expected + layer.self_attn(layer.layer_norm1(expected))
        expected = expected + layer.mlp(layer.layer_norm2(expected))
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


def test_frames_of_a_window_see_each_other(folders: Folders) -> None:
    encoder = build(folders)
    frames = random_frames(5)
    changed = torch.cat([frames[:4], 255 - frames[4:]])
    before, after = (encoder(each, torch.tensor([5])) for each in (frames, changed))
    assert (before.cls[0] - after.cls[0]).abs().max() > 1e-3
    assert encoder.window_frames == 8


def test_video_of_one_frame_is_an_image(folders: Folders) -> None:
    encoder = build(folders)
    frames = random_frames(2)
    images = encoder(frames, torch.tensor([1, 1]))
    with torch.no_grad():
        expected = encoder.image_transformer(normalised(frames))
    assert_close(images, FrameFeatures(expected[:, 0], expected[:, 1:]))
    assert not torch.allclose(images.cls, encoder(frames, torch.tensor([2])).cls, atol=1e-2)


def test_chunks_do_not_change_the_features(folders: Folders) -> None:
    counts = torch.tensor([3, 1, 20, 8] + [1] * 9)
    frames = random_frames(int(counts.sum()))
    assert_close(
        build(folders, max_frames_per_call=8)(frames, counts), build(folders, max_frames_per_call=64)(frames, counts)
    )


@pytest.mark.parametrize("counts", [[9, 30, 1], [1] * 40])
def test_no_call_is_larger_than_the_bound(counts: list[int], folders: Folders) -> None:
    encoder = build(folders, max_frames_per_call=16)
    sizes: list[int] = []
    for transformer in (encoder.video_transformer, encoder.image_transformer):
        transformer.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    encoder(random_frames(sum(counts)), torch.tensor(counts))
    assert sum(sizes) == sum(counts)
    assert max(sizes) <= 16


def test_no_frames_give_no_features(folders: Folders) -> None:
    encoder = build(folders, dtype="bfloat16")
    features = encoder(random_frames(0), torch.zeros(0, dtype=torch.int64))
    assert features.cls.shape == (0, 64)
    assert features.patches.shape == (0, encoder.num_patches, 64)
    assert features.cls.dtype == features.patches.dtype == torch.bfloat16


def test_encoder_is_frozen_and_stays_in_eval_mode(folders: Folders) -> None:
    encoder = build(folders)
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(random_frames(3), torch.tensor([2, 1])).patches.requires_grad


def test_half_precision_features_follow_float32(folders: Folders) -> None:
    frames, counts = random_frames(4), torch.tensor([3, 1])
    exact, half = build(folders)(frames, counts), build(folders, dtype="bfloat16")(frames, counts)
    assert half.patches.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.patches.float(), exact.patches, dim=-1).min() > 0.99


def test_encoder_follows_a_later_change_of_dtype(folders: Folders) -> None:
    frames, counts = random_frames(4), torch.tensor([3, 1])
    changed = build(folders).to(torch.bfloat16)(frames, counts)
    torch.testing.assert_close(changed, build(folders, dtype="bfloat16")(frames, counts), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_keep_their_dtype_under_autocast(dtype: str, folders: Folders) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features = build(folders, dtype=dtype)(random_frames(4), torch.tensor([3, 1]))
    assert features.cls.dtype == features.patches.dtype == getattr(torch, dtype)
    assert bool(features.patches.isfinite().all())


def test_dummy_frame_can_be_encoded(folders: Folders) -> None:
    encoder = build(folders)
    assert encoder(encoder.dummy_frames(CPU), torch.tensor([1])).patches.shape == (1, 16, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, r"layer must be in -4\.\.3, got 4"),
        ({"layer": -5}, "got -5"),
        ({"max_frames_per_call": 12}, "positive multiple of 8, got 12"),
        ({"max_frames_per_call": 0}, "got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str, folders: Folders) -> None:
    with pytest.raises(ValueError, match=message):
        build(folders, **options)


@pytest.mark.parametrize("frames", [random_frames(1, size=42), random_frames(1).float(), random_frames(1)[0]])
def test_frames_of_another_form_are_refused(frames: Tensor, folders: Folders) -> None:
    with pytest.raises(ValueError, match=r"reads uint8 frames \[F, 3, 56, 56\]"):
        build(folders)(frames, torch.tensor([1]))


def test_counts_that_do_not_sum_to_the_frames_are_refused(folders: Folders) -> None:
    with pytest.raises(ValueError, match="give the frame_counts"):
        build(folders)(random_frames(3), torch.tensor([8]))


def test_video_transformer_needs_to_know_its_windows(folders: Folders) -> None:
    with pytest.raises(ValueError, match="needs the windows of the frames"):
        build(folders).video_transformer(normalised(random_frames(8)))


def test_sharding_makes_both_transformers_run_in_every_call(folders: Folders) -> None:
    with building_sharded(OneRank()):
        encoder = build(folders)
    called: list[str] = []
    for name in ("video_transformer", "image_transformer"):
        getattr(encoder, name).register_forward_hook(lambda _module, _inputs, _output, name=name: called.append(name))
    for counts in ([], [1, 1], [4, 8]):
        called.clear()
        encoder(random_frames(sum(counts)), torch.tensor(counts, dtype=torch.int64))
        assert sorted(called) == ["image_transformer", "video_transformer"]
