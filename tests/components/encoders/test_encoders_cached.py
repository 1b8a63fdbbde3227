from typing import Any

import pytest
import torch

from components.encoders.cached import CachedFeatures, cache_matrices
from components.interfaces import FrameFeatures

ONE = torch.tensor([1])
FORMS: list[dict[str, Any]] = [
    {},
    {"saliency": True},
    *({"saliency": saliency, "joint_dim": width} for saliency in (False, True) for width in (1, 8, 9, 20)),
]


def random_features(saliency: bool = False, joint_dim: int = 0) -> FrameFeatures:
    cls, patches = torch.randn(3, 8).bfloat16(), torch.randn(3, 4, 8).bfloat16()
    salient = torch.rand(3, 4).bfloat16().float() if saliency else None  # as exact as the cache
    return FrameFeatures(cls, patches, salient, torch.randn(3, joint_dim).bfloat16() if joint_dim else None)


@pytest.mark.parametrize("form", FORMS)
def test_cached_features_are_those_that_were_cached(form: dict[str, Any]) -> None:
    features = random_features(**form)
    encoder = CachedFeatures(dim=8, num_patches=4, **form)
    given = encoder(cache_matrices(features), torch.tensor([3]))
    for before, after in zip(features, given, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_class_token_comes_first() -> None:
    cached = torch.randn(3, 5, 8).bfloat16()
    features = CachedFeatures(dim=8, num_patches=4)(cached, torch.tensor([3]))
    assert torch.equal(features.cls, cached[:, 0])
    assert torch.equal(features.patches, cached[:, 1:])


@pytest.mark.parametrize("form", FORMS)
def test_dummy_frame_and_no_frames_can_be_read(form: dict[str, Any]) -> None:
    encoder = CachedFeatures(dim=8, num_patches=4, **form)
    dummy = encoder.dummy_frames("cpu")
    assert encoder(dummy, ONE).patches.shape == (1, 4, 8)
    assert encoder(dummy[:0], ONE[:0]).cls.shape == (0, 8)


@pytest.mark.parametrize("shape", [(3, 5, 16), (3, 4, 8), (3, 3, 28, 28), (5, 8)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects features \[F, 5, 8\]"):
        CachedFeatures(dim=8, num_patches=4)(torch.zeros(shape), ONE)


@pytest.mark.parametrize(
    ("form", "missing"),
    [
        ({"saliency": True}, "saliency"),
        ({"joint_dim": 6}, "a joint embedding"),
        ({"saliency": True, "joint_dim": 6}, "saliency and a joint embedding"),
    ],
)
def test_a_cache_without_saliency_or_joint_embedding_is_named(form: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=f"this cache has no {missing}: cache again with saliency_layer"):
        CachedFeatures(dim=8, num_patches=4, **form)(torch.zeros(3, 5, 8), ONE)
