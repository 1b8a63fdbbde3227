import pytest
import torch
from torch import Tensor

from components.interfaces import FrameFeatures, PatchPooling, Projector, Segments
from components.patches import ReadFrames, reduced_patches, without_unread_frames
from components.pooling.patch_pooling import ConvPooling, GridPooling
from components.projectors.mlp import MlpProjector

DIM, NUM_PATCHES, NUM_FRAMES = 3, 16, 6


class Doubled(Projector):
    """Gives every patch twice, side by side."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = 2 * dim

    def forward(self, patches: Tensor) -> Tensor:
        return torch.cat([patches, patches], dim=-1)


def features(num_frames: int = NUM_FRAMES, *, optional: bool = True) -> FrameFeatures:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(num_frames, NUM_PATCHES, DIM, generator=generator)
    cls, saliency = patches[:, 0], torch.rand(num_frames, NUM_PATCHES, generator=generator)
    return FrameFeatures(cls, patches, saliency, cls + 1) if optional else FrameFeatures(cls, patches)


def segments(*frames: list[int]) -> Segments:
    """One video whose segments read these frames."""
    longest = max(map(len, frames))
    index = torch.tensor([each + [0] * (longest - len(each)) for each in frames])[None, ..., None]
    mask = torch.tensor([[True] * len(each) + [False] * (longest - len(each)) for each in frames])[None, ..., None]
    return Segments(index, mask, index[..., 0])


def read_values(read: ReadFrames, name: str) -> list[list[float]]:
    """First value of every frame that a reader reads, and the frames' times, by segment."""
    [index], [mask] = read.segments[name].frame_index[..., 0], read.segments[name].frame_mask[..., 0]
    return [
        read.features.patches[each[real], 0, 0].tolist() + read.frame_ms[each[real]].tolist()
        for each, real in zip(index, mask, strict=True)
    ]


def test_frames_that_no_reader_reads_are_left_out_and_the_others_are_found_again() -> None:
    read = ReadFrames(
        features(), torch.arange(NUM_FRAMES) * 500, {"one": segments([1, 3], [4]), "other": segments([3], [4])}
    )
    fewer = without_unread_frames(read)
    assert fewer.frame_ms.tolist() == [500, 1500, 2000]
    assert [len(field) for field in fewer.features if field is not None] == [3] * 4
    for name in read.segments:
        assert read_values(fewer, name) == read_values(read, name)
        assert torch.equal(fewer.segments[name].frame_number, read.segments[name].frame_number)


def test_nothing_changes_where_all_frames_are_read() -> None:
    read = ReadFrames(features(), torch.arange(NUM_FRAMES), {"one": segments([0, 1, 2], [3, 4, 5])})
    assert without_unread_frames(read) is read


def test_features_without_saliency_stay_without() -> None:
    read = ReadFrames(features(optional=False), torch.arange(NUM_FRAMES), {"one": segments([0], [3])})
    fewer = without_unread_frames(read).features
    assert fewer.saliency is None
    assert fewer.joint is None
    assert reduced_patches(fewer, None, GridPooling(DIM, grid=2), torch.float32).saliency is None


def test_patches_are_projected_and_then_pooled() -> None:
    given = features()
    pooled: list[torch.Size] = []
    pooling: PatchPooling = GridPooling(2 * DIM, grid=2)
    pooling.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].shape))
    reduced = reduced_patches(given, Doubled(DIM), pooling, torch.float32)
    assert pooled == [(NUM_FRAMES, NUM_PATCHES, 2 * DIM)]
    assert reduced.patches.shape == (NUM_FRAMES, 4, 2 * DIM)
    corner = given.patches[:, [0, 1, 4, 5]].mean(dim=1)
    torch.testing.assert_close(reduced.patches[:, 0], torch.cat([corner, corner], dim=1))
    assert torch.equal(reduced.cls, given.cls)


def test_saliency_is_the_mean_of_the_patches_that_became_one() -> None:
    given = features()
    assert given.saliency is not None
    reduced = reduced_patches(given, None, GridPooling(DIM, grid=2), torch.float32)
    assert reduced.saliency is not None
    torch.testing.assert_close(reduced.saliency[:, 3], given.saliency[:, [10, 11, 14, 15]].mean(dim=1))
    projected = reduced_patches(given, Doubled(DIM), None, torch.float32)
    assert projected.saliency is given.saliency


def test_without_projector_and_pooling_the_features_are_given_as_they_are() -> None:
    given = features()
    assert reduced_patches(given, None, None, torch.float64) is given


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_patches_are_reduced_in_the_dtype_in_which_they_are_read(dtype: torch.dtype) -> None:
    half = FrameFeatures(*(None if field is None else field.bfloat16() for field in features()))  # type: ignore[arg-type]
    assert reduced_patches(half, Doubled(DIM), GridPooling(2 * DIM, grid=1), dtype).patches.dtype == dtype


def test_no_frame_at_all_is_reduced_to_none() -> None:
    reduced = reduced_patches(features(0), None, GridPooling(DIM, grid=2), torch.float32)
    assert reduced.patches.shape == (0, 4, DIM)
    assert reduced.saliency is not None
    assert reduced.saliency.shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_projector_and_pooling_read_patches_in_their_own_dtype(dtype: torch.dtype) -> None:
    half = features(optional=False)
    half = half._replace(patches=half.patches.to(dtype))
    projector, pooling = MlpProjector(DIM, DIM), ConvPooling(DIM, stride=2)
    # The reader has no weights, so it reads the dtype of the features.
    for parts in ((projector, None), (None, pooling), (projector, pooling)):
        assert reduced_patches(half, *parts, dtype).patches.dtype == torch.float32
    assert reduced_patches(half, None, GridPooling(DIM, grid=2), torch.float32).patches.dtype == torch.float32
