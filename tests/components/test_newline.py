from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.newline import Newline


def test_weights_are_read_from_their_file_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "newline.safetensors"
    save_file({"vector": torch.arange(4.0)}, path)
    newline = Newline(4, weights=str(path))
    assert newline().tolist() == [0, 1, 2, 3]
    assert newline.vector.requires_grad
    assert not Newline(4, weights=str(path), freeze=True).vector.requires_grad
    with pytest.raises(ValueError, match=r"of another shape: vector \[4\] instead of \[5\]"):
        Newline(5, weights=str(path))
    with pytest.raises(FileNotFoundError, match=r"correct newline\.weights"):
        Newline(4, weights=str(tmp_path / "missing.safetensors"))


def test_gradient_reaches_the_vector() -> None:
    newline = Newline(3)
    newline().sum().backward()  # type: ignore[no-untyped-call]
    assert newline.vector.grad is not None
    assert newline.vector.grad.tolist() == [1, 1, 1]
