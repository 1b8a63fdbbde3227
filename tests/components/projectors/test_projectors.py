from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.projectors.mlp import MlpProjector
from components.random_weights import random_parameters


def test_projector_is_linear_gelu_linear() -> None:
    projector, patches = MlpProjector(3, 5), torch.randn(2, 4, 3)
    first, second = projector.layers[0], projector.layers[2]
    expected = second(nn.functional.gelu(first(patches)))
    torch.testing.assert_close(projector(patches), expected)
    assert projector.out_dim == expected.shape[-1] == 5


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tensors_have_the_numbers_that_llava_gives_them(depth: int) -> None:
    names = {name for name, _ in MlpProjector(3, 5, depth=depth).named_parameters()}
    assert names == {f"layers.{2 * layer}.{kind}" for layer in range(depth) for kind in ("weight", "bias")}


def test_trained_weights_are_read_from_a_file(tmp_path: Path) -> None:
    trained = MlpProjector(3, 5)
    save_file(trained.state_dict(), tmp_path / "projector.safetensors")
    read = MlpProjector(3, 5, weights=str(tmp_path / "projector.safetensors"))
    patches = torch.randn(2, 4, 3)
    assert torch.equal(read(patches), trained(patches))
    assert all(parameter.requires_grad for parameter in read.parameters())


def test_weights_of_another_projector_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "projector.safetensors")
    save_file(MlpProjector(3, 5).state_dict(), path)
    with pytest.raises(
        ValueError, match=r"does not fit this MlpProjector\. missing: layers\.4\.bias, layers\.4\.weight\. Set depth"
    ):
        MlpProjector(3, 5, depth=3, weights=path)
    with pytest.raises(ValueError, match=r"layers\.0\.weight \[5, 3\] instead of \[5, 4\]"):
        MlpProjector(4, 5, weights=path)
    with pytest.raises(FileNotFoundError, match=r"no file .*missing.*projector\.weights"):
        MlpProjector(3, 5, weights=str(tmp_path / "missing.safetensors"))


@pytest.mark.parametrize("build", [MlpProjector, VideoLLaMBBridge])
def test_a_damaged_file_of_weights_is_named(tmp_path: Path, build: Any) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"broken\.safetensors is not what safetensors writes"):
        build(8, 8, weights=str(tmp_path / "broken.safetensors"))


def test_frozen_projector_has_no_trainable_weight_and_is_stored_if_no_file_has_it(tmp_path: Path) -> None:
    frozen = MlpProjector(3, 5, freeze=True)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert random_parameters(frozen) == {name for name, _ in frozen.named_parameters()}
    save_file(frozen.state_dict(), tmp_path / "projector.safetensors")
    assert not random_parameters(MlpProjector(3, 5, freeze=True, weights=str(tmp_path / "projector.safetensors")))


def test_a_projector_without_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 layer, got depth=0"):
        MlpProjector(3, 5, depth=0)


def test_a_projector_that_normalises_gives_unit_variance_whatever_the_scale_of_the_patches() -> None:
    torch.manual_seed(0)
    projector, patches = MlpProjector(8, 16, normalise=True), torch.randn(2, 4, 8)
    projected = projector(patches)
    torch.testing.assert_close(projected.var(dim=2, unbiased=False), torch.ones(2, 4), atol=1e-2, rtol=0)
    torch.testing.assert_close(projector(1000 * patches), projected, atol=1e-3, rtol=1e-3)
    assert {name.split(".")[0] for name, _ in projector.named_parameters()} == {"input_norm", "layers", "output_norm"}
