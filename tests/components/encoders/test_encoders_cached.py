import pytest
import torch

from components.encoders.cached import CachedFeatures

ONE = torch.tensor([1])


def test_class_token_comes_first() -> None:
    cached = torch.randn(3, 5, 8).bfloat16()
    features = CachedFeatures(dim=8, num_patches=4)(cached, torch.tensor([3]))
    assert torch.equal(features.cls, cached[:, 0])
    assert torch.equal(features.patches, cached[:, 1:])


def test_dummy_frame_and_no_frames_can_be_read() -> None:
    encoder = CachedFeatures(dim=8, num_patches=4)
    assert encoder(encoder.dummy_frames("cpu"), ONE).patches.shape == (1, 4, 8)
    assert encoder(torch.zeros(0, 5, 8), ONE[:0]).cls.shape == (0, 8)


@pytest.mark.parametrize("shape", [(3, 5, 16), (3, 4, 8), (3, 3, 28, 28), (5, 8)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects features \[F, 5, 8\]"):
        CachedFeatures(dim=8, num_patches=4)(torch.zeros(shape), ONE)
