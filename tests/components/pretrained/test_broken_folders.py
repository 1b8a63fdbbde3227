"""Folders of models that were damaged or edited, and options that do not exist: every message says which and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.model import VideoLanguageModel
from tests.fixtures_models import PartFolders, make_model

FIELDS = ["version", "model", "sources", "dtype", "frames", "training", "max_new_tokens"]
EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    **{f"without {name}": ("config.json", lambda content, name=name: content.pop(name)) for name in FIELDS},
    "unknown frame setting": ("config.json", lambda content: content["frames"].update(sizes=3)),
    **{name: ("export.json", lambda content, name=name: content.pop(name)) for name in ("left_out", "averaged")},
}


@pytest.fixture(scope="module")
def written(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "a model"
    make_model(folders).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "my model")


@pytest.mark.parametrize("file", ["config.json", "export.json"])
@pytest.mark.parametrize("content", [b"", b'{"format": "membr', b"\xff\xfe\x00"])
def test_a_damaged_description_is_named(file: str, content: bytes, copied: Path) -> None:
    (copied / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is damaged, for it is no JSON .*copy its folder again"):
        VideoLanguageModel.from_pretrained(copied)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_description_is_refused_in_words(edit: str, copied: Path) -> None:
    file, change = EDITS[edit]
    content = json.loads((copied / file).read_text())
    change(content)
    (copied / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is damaged or was edited.*copy the folder again|has version None"):
        VideoLanguageModel.from_pretrained(copied)


def test_options_that_do_not_exist_are_refused_before_anything_is_built(written: Path) -> None:
    with pytest.raises(ValueError, match="dtype is 'float8'; expected 'float32', 'bfloat16', 'float16'"):
        VideoLanguageModel.from_pretrained(written, dtype="float8")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"sources names encodr, but .* reads weights for encoder, language_model only"
    ):
        VideoLanguageModel.from_pretrained(written, sources={"encodr": "somewhere"})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_another_dtype_keeps_it_in_its_next_folder(dtype: Any, written: Path, tmp_path: Path) -> None:
    opened = VideoLanguageModel.from_pretrained(written, dtype=dtype)
    opened.save_pretrained(tmp_path / "next")
    again = VideoLanguageModel.from_pretrained(tmp_path / "next")
    assert {name: each.dtype for name, each in again.named_parameters()} == {
        name: each.dtype for name, each in opened.named_parameters()
    }


def test_wrong_folders_are_told_from_each_other(folders: PartFolders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of another library\. Name it as the path of a part"):
        VideoLanguageModel.from_pretrained(folders.language_model)
    (tmp_path / "run.ckpt").mkdir()
    (tmp_path / "run.ckpt/index.json").touch()
    with pytest.raises(ValueError, match=r"checkpoint of a training run; export it first: python -m lightning_modules"):
        VideoLanguageModel.from_pretrained(tmp_path / "run.ckpt")
    model = make_model(folders)
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(FileExistsError, match="is there already"):
        model.save_pretrained(tmp_path / "out")
    config = tmp_path / "out/config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="has version 2 of the format"):
        VideoLanguageModel.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("file", ["model.safetensors", "encoder/model.safetensors", "language_model/model.safetensors"])
def test_a_damaged_file_is_found(file: str, folders: PartFolders, tmp_path: Path) -> None:
    make_model(folders).save_pretrained(tmp_path / "out")
    content = bytearray((tmp_path / "out" / file).read_bytes())
    content[-1] ^= 1
    (tmp_path / "out" / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"changed or damaged after it was written: {file}"):
        VideoLanguageModel.from_pretrained(tmp_path / "out")
