"""Exports have the authors' names, and imports and exports undo each other bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.checkpoints.weight_files import WeightFiles
from components.weights.llava_onevision import main
from tests.components.tiny_onevision import (
    LAYOUTS,
    VISION_FACTS,
    Layout,
    make_onevision,
    original_memory,
    original_tensors,
    save_onevision,
)

FILES = ("projector.safetensors", "newline.safetensors", "memory.safetensors", "frames.safetensors")
PARTS = ("vision_encoder", "language_model", *FILES)


def write_memory_vlm(folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Write a Memory-Augmented VLM as its authors do; returns its tensors."""
    model = make_onevision(seed=6, tied=tied)
    save_onevision(model, folder, "original")
    tensors = {name: each.to(dtype) for name, each in (original_tensors(model) | original_memory(seed=7)).items()}
    save_file(tensors, folder / "model.safetensors")
    return tensors


def equal_tensors(stored: WeightFiles, expected: dict[str, Tensor]) -> None:
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype, name
        assert torch.equal(stored[name], tensor), name


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_export_of_an_import_is_the_original(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = write_memory_vlm(tmp_path / "source", tied=tied, dtype=dtype)
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    main(["export", str(tmp_path / "parts"), str(tmp_path / "back")])
    equal_tensors(WeightFiles(tmp_path / "back"), tensors)
    named = {"torch_dtype": str(dtype).removeprefix("torch.")}
    assert read_json(tmp_path / "back" / "config.json") == read_json(tmp_path / "source" / "config.json") | named
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


def test_import_of_an_export_is_what_was_exported(tmp_path: Path) -> None:
    write_memory_vlm(tmp_path / "source")
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    main(["export", str(tmp_path / "parts"), str(tmp_path / "back")])
    main(["import", str(tmp_path / "back"), str(tmp_path / "again"), *VISION_FACTS])
    for part in PARTS:
        stored = WeightFiles(tmp_path / "parts" / part)
        equal_tensors(WeightFiles(tmp_path / "again" / part), {name: stored[name] for name in stored})
    for part in ("vision_encoder", "language_model"):
        settings = read_json(tmp_path / "parts" / part / "config.json")
        again = read_json(tmp_path / "again" / part / "config.json")
        assert again == settings | ({"torch_dtype": "float32"} if part == "language_model" else {})


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_models_of_transformers_get_the_authors_names(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_onevision(seed=8)
    save_onevision(model, tmp_path / "source", layout)
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts")])
    main(["export", str(tmp_path / "parts"), str(tmp_path / "back")])
    equal_tensors(WeightFiles(tmp_path / "back"), original_tensors(model))
    assert "config.json: settings of the language model beside those" in capsys.readouterr().out
    config = read_json(tmp_path / "back" / "config.json")
    assert config["architectures"] == ["LlavaQwenForCausalLM"]
    main(["import", str(tmp_path / "back"), str(tmp_path / "again"), *VISION_FACTS])
    language = [read_json(tmp_path / each / "language_model" / "config.json") for each in ("parts", "again")]
    assert language[1]["rope_theta"] == model.config.text_config.rope_parameters["rope_theta"]
    assert language[1]["vocab_size"] == language[0]["vocab_size"]


def test_some_parts_may_be_exported_to_a_file_in_another_dtype(tmp_path: Path) -> None:
    tensors = write_memory_vlm(tmp_path / "source")
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    parts = [argument for part in ("memory", "frames", "newline") for argument in ("--part", part)]
    main(["export", str(tmp_path / "parts"), str(tmp_path / "some.safetensors"), *parts, "--dtype", "bfloat16"])
    names = {*original_memory(), "model.image_newline"}
    stored = load_file(tmp_path / "some.safetensors")
    assert stored.keys() == names
    assert all(torch.equal(stored[name], tensors[name].bfloat16()) for name in names)
    with pytest.raises(FileExistsError, match=r"some\.safetensors is there already"):
        main(["export", str(tmp_path / "parts"), str(tmp_path / "some.safetensors"), *parts])


def test_parts_that_the_original_does_not_have_are_refused(tmp_path: Path) -> None:
    write_memory_vlm(tmp_path / "source")
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    file = tmp_path / "parts" / "memory.safetensors"
    memory = load_file(file)
    del memory["fuser.expand.bias"]
    save_file(memory | {"fuser.blocks.0.weight": torch.zeros(3)}, file)
    message = r"missing tensor memory\.fuser\.expand\.bias.*\n  unknown tensor memory\.fuser\.blocks\.0\.weight \[3\]"
    with pytest.raises(ValueError, match=message):
        main(["export", str(tmp_path / "parts"), str(tmp_path / "back")])
    assert not (tmp_path / "back").exists()
    (tmp_path / "parts" / "frames.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no frames"):
        main(["export", str(tmp_path / "parts"), str(tmp_path / "back"), "--part", "frames"])


def test_a_type_without_the_other_is_refused(tmp_path: Path) -> None:
    """The original has one table for both streams, so half of it cannot be written."""
    write_memory_vlm(tmp_path / "source")
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    with pytest.raises(ValueError, match=r"missing tensor frames\.type_embedding\.vector"):
        main(["export", str(tmp_path / "parts"), str(tmp_path / "back"), "--part", "memory"])
