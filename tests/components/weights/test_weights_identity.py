"""Fingerprints of weights and content hashes of files."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.checkpoints.file_hashes import ContentHash, content_hash, refuse_changed_files
from components.checkpoints.weight_fingerprint import fingerprint_of_tensor, is_same, plain_name


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9000), max_size=6))
def test_content_hash_does_not_depend_on_how_the_content_is_cut(lengths: list[int]) -> None:
    content = bytes(range(256)) * 80
    expected, found, place = ContentHash(), ContentHash(), 0
    expected.update(content)
    for length in lengths:
        found.update(content[place : place + length])
        place += length
    found.update(content[place:])
    assert found.hexdigest() == expected.hexdigest()


CONTENT = (
    torch.randint(0, 256, (20_001,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy().tobytes()
)
CHANGED = {
    "bit": CONTENT[:5000] + bytes([CONTENT[5000] ^ 1]) + CONTENT[5001:],
    "last byte": CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]),
    "cleared page": CONTENT[:4096] + bytes(4096) + CONTENT[8192:],
    "swapped pages": CONTENT[4096:8192] + CONTENT[:4096] + CONTENT[8192:],
    "cut": CONTENT[:-1],
    "longer": CONTENT + b"\0",
    "empty": b"",
}


@pytest.mark.parametrize("how", CHANGED)
def test_changed_file_is_told_by_its_hash(tmp_path: Path, how: str) -> None:
    (tmp_path / "weights").write_bytes(CONTENT)
    hashes = {"weights": content_hash(tmp_path / "weights")}
    refuse_changed_files(tmp_path, hashes)
    (tmp_path / "weights").write_bytes(CHANGED[how])
    with pytest.raises(ValueError, match="was changed or damaged after it was written: weights"):
        refuse_changed_files(tmp_path, hashes)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is incomplete: it has no weights"):
        refuse_changed_files(tmp_path, {"weights": "00"})


TENSORS = {
    "normal": torch.randn(300, 70, generator=torch.Generator().manual_seed(0)) * 0.02,
    "ones": torch.ones(5000),
    "shifted": torch.rand(9000, generator=torch.Generator().manual_seed(1)) + 3.0,
    "zeros": torch.zeros(17),
    "one element": torch.tensor([0.3]),
    "no dimension": torch.tensor(0.3),
    "empty": torch.empty(0, 4),
    "nan": torch.tensor([1.0, float("nan"), 2.0]),
    "infinite": torch.tensor([1.0, float("inf"), -2.0]),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_known_again_in_any_dtype(name: str, dtype: torch.dtype) -> None:
    one, other = fingerprint_of_tensor(TENSORS[name]), fingerprint_of_tensor(TENSORS[name].to(dtype))
    assert is_same(one, other)
    assert is_same(other, one)


def test_half_precision_formats_of_the_same_weights_are_known_again() -> None:
    weight = TENSORS["normal"]
    assert is_same(fingerprint_of_tensor(weight.half()), fingerprint_of_tensor(weight.bfloat16()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_changed_row_shows(dtype: torch.dtype) -> None:
    weight = TENSORS["normal"].to(dtype)
    other = weight.clone()
    other[7] = torch.randn(70, generator=torch.Generator().manual_seed(5)).to(dtype) * 0.02
    assert not is_same(fingerprint_of_tensor(weight), fingerprint_of_tensor(other))


def test_finely_tuned_weights_show_even_beside_a_coarser_dtype() -> None:
    weight = TENSORS["normal"]
    tuned = weight + 5e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    assert not is_same(fingerprint_of_tensor(weight), fingerprint_of_tensor(tuned.bfloat16()))
    assert not is_same(fingerprint_of_tensor(weight.bfloat16()), fingerprint_of_tensor(tuned))


def test_shape_counts() -> None:
    weight = torch.ones(4, 6)
    assert not is_same(fingerprint_of_tensor(weight), fingerprint_of_tensor(weight.view(6, 4)))


def test_adapters_beside_a_weight_do_not_change_its_name() -> None:
    assert plain_name("model.layers.0.experts.base_layer.base_layer.down_proj") == "model.layers.0.experts.down_proj"
    assert plain_name("model.base_layer_norm.weight") == "model.base_layer_norm.weight"
