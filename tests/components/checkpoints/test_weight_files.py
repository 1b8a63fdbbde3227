"""Weight files of other projects: which are read, and which are refused before code in them is executed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.checkpoints.weight_files import WeightFiles
from tests.fixtures_videollamb import write_sharded


class _RunsCode:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.makedirs, ("created_by_unpickling",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"projector.proj.0.bias": _RunsCode()}, "mm_projector.bin")
    with pytest.raises(ValueError, match="holds more than tensors and is not opened"):
        WeightFiles(Path("mm_projector.bin"))
    assert not Path("created_by_unpickling").exists()


@pytest.mark.parametrize("name", ["mm_projector.bin", "model.safetensors"])
@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04 broke off", b""])
def test_a_damaged_file_is_told_from_one_that_would_run_code(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} .*is damaged.*: a download that broke off"):
        WeightFiles(tmp_path / name)


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*expected a checkpoint file, or a folder with"):
        WeightFiles(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "nested.bin")
    with pytest.raises(ValueError, match="no state dict: expected a flat dict of tensors"):
        WeightFiles(tmp_path / "nested.bin")


def test_files_from_before_the_zip_form_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(WeightFiles(tmp_path / "old.bin")["a"], torch.ones(2))


def test_shards_and_index_that_disagree_are_refused(tmp_path: Path) -> None:
    write_sharded({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "m", "safetensors")
    save_file({"c": torch.ones(1)}, tmp_path / "m" / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"missing \['b'\], not in the index \['c'\]"):
        WeightFiles(tmp_path / "m")
    (tmp_path / "m" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors does not exist"):
        WeightFiles(tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match="shards must be in the folder of their index"):
        WeightFiles(tmp_path / "m")
