"""The expected number of layers comes from a config, an option or a published model, not from the tensors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from components.checkpoints.weight_files import WeightFiles
from components.encoders.languagebind_transformer import FrameWindows
from components.encoders.languagebind_weights import load_vision_transformer
from components.weights.conversion import PARTS, import_checkpoint
from components.weights.original_names import PartName
from components.weights.videollamb import main
from tests.fixtures_videollamb import ENCODER_FACTS, write_original

PUBLISHED: list[tuple[PartName, int, int]] = [
    ("bridge", 1024, 1),
    ("video_encoder", 1024, 24),
    ("image_encoder", 1024, 24),
    ("language_model", 4096, 32),
    ("language_model", 5120, 40),
]
STATED = ["--num-layers", "bridge=1", "video_encoder=3", "image_encoder=3", "language_model=2"]


def part_of(part: PartName, num_layers: int, width: int) -> dict[str, Tensor]:
    rules = PARTS[part]
    names = rules.names(num_layers).keys() | rules.unused(num_layers).keys()
    return {rules.prefix + name: torch.empty(1, width, device="meta") for name in names}


def write_without(source: Path, target: Path, dropped: str, **settings: Any) -> Path:
    """Write a folder's checkpoint to one file, without tensors that match a pattern, and its configuration."""
    target.mkdir()
    stored = WeightFiles(source)
    kept = {name: stored[name].contiguous() for name in stored if not re.search(dropped, name)}
    assert len(kept) < len(stored)
    save_file(kept, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_original(folder)
    return folder


@pytest.mark.parametrize(("part", "width", "num_layers"), PUBLISHED)
def test_published_depth_is_known_by_its_width(part: PartName, width: int, num_layers: int) -> None:
    imported = import_checkpoint(part_of(part, num_layers, width)).parts[part]
    assert imported.num_layers == num_layers
    assert not imported.missing
    with pytest.raises(ValueError, match=rf"{part}: .*width {width}.*beyond them \[{num_layers}\]"):
        import_checkpoint(part_of(part, num_layers + 1, width))


@pytest.mark.parametrize(("part", "width", "num_layers"), PUBLISHED[1:])
def test_last_layers_that_are_missing_are_named(part: PartName, width: int, num_layers: int) -> None:
    with pytest.raises(ValueError, match="missing and 0 unknown") as refusal:
        import_checkpoint(part_of(part, num_layers - 2, width))
    gone = [num_layers - 2, num_layers - 1]
    assert f"{part}: missing layers {gone}" in str(refusal.value)
    assert f"--num-layers {part}=" in str(refusal.value)


@pytest.mark.parametrize("part", PARTS)
def test_depth_that_neither_width_nor_statement_tells_is_asked_for(part: PartName) -> None:
    with pytest.raises(ValueError, match=rf"{part}: unknown number of layers for width 48.*--num-layers {part}=N"):
        import_checkpoint(part_of(part, 2, 48))
    assert import_checkpoint(part_of(part, 2, 48), num_layers={part: 2}).parts[part].num_layers == 2


@pytest.mark.parametrize("part", PARTS)
def test_stated_depth_counts_for_every_part(part: PartName) -> None:
    with pytest.raises(ValueError, match=rf"{part}: missing layers \[2\] of the 3 that are stated"):
        import_checkpoint(part_of(part, 2, 48), num_layers={part: 3})
    with pytest.raises(ValueError, match=rf"{part}: .*beyond them \[1\]"):
        import_checkpoint(part_of(part, 2, 48), num_layers={part: 1})


def test_configuration_states_the_language_models_depth(original: Path, tmp_path: Path) -> None:
    source = write_without(original, tmp_path / "cut", r"^model\.layers\.1\.")
    arguments = ["import", str(source), str(tmp_path / "ours"), "--part", "language_model"]
    refusal = r"language_model: missing layers \[1\] of the 2 that are stated.*--num-layers language_model="
    with pytest.raises(ValueError, match=refusal):
        main(arguments)
    assert not (tmp_path / "ours").exists()
    main([*arguments, "--num-layers", "language_model=1"])  # the user states the number
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours" / "language_model")
    assert loaded.config.num_hidden_layers == len(loaded.model.layers) == 1


def test_configuration_states_the_depth_of_a_file_beside_it(original: Path, tmp_path: Path) -> None:
    source = write_without(original, tmp_path / "cut", r"^model\.layers\.1\.")
    with pytest.raises(ValueError, match=r"language_model: missing layers \[1\]"):
        main(["import", str(source / "model.safetensors"), str(tmp_path / "ours"), "--part", "language_model"])


def test_projector_type_states_the_bridges_depth(original: Path, tmp_path: Path) -> None:
    source = write_without(original, tmp_path / "cut", r"^lm_head", mm_projector_type="rmt_r_transformer2x")
    arguments = ["import", str(source), str(tmp_path / "ours"), "--part", "bridge"]
    with pytest.raises(ValueError, match=r"bridge: missing layers \[1\] of the 2.*--num-layers bridge="):
        main(arguments)
    main([*arguments, "--num-layers", "bridge=1"])


def test_encoder_without_its_last_layer_is_refused_or_keeps_its_depth(original: Path, tmp_path: Path) -> None:
    """Counted from the tensors, it would have two layers, and layer -2 would be the first instead of the second."""
    source = write_without(original, tmp_path / "cut", r"video_tower.*layers\.2\.")
    arguments = ["import", str(source), str(tmp_path / "ours"), "--part", "video_encoder", *ENCODER_FACTS]
    with pytest.raises(ValueError, match=r"video_encoder: missing layers \[2\] of the 3"):
        main(arguments)
    main([*arguments, "--allow-missing", "*.encoder.layers.2.*"])
    main(["import", str(original), str(tmp_path / "whole"), "--part", "video_encoder", *ENCODER_FACTS])
    states = []
    for folder in (tmp_path / "ours", tmp_path / "whole"):
        path = str(folder / "video_encoder")
        transformer = load_vision_transformer(path, layer=-2, temporal=True, dtype=torch.float32)
        pixels = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)
        with torch.no_grad():
            states.append(transformer(pixels, FrameWindows.of_lengths([1], torch.device("cpu"))))
    assert torch.equal(*states)


@pytest.mark.parametrize(("part", "layer"), [("video_encoder", "encoder.layers.2."), ("language_model", "layers.1.")])
def test_part_without_its_last_layer_is_not_exported(part: str, layer: str, original: Path, tmp_path: Path) -> None:
    main(["import", str(original), str(tmp_path / "ours"), "--part", part, *ENCODER_FACTS])
    weights = tmp_path / "ours" / part / "model.safetensors"
    stored = WeightFiles(weights)
    save_file({name: stored[name].clone() for name in stored if layer not in name}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").rename(weights)
    arguments = ["export", str(tmp_path / "ours"), str(tmp_path / "back")]
    with pytest.raises(ValueError, match=rf"missing tensor \S*{re.escape(layer)}"):
        main(arguments)
    assert not (tmp_path / "back").exists()
    main([*arguments, "--allow-missing", f"*{layer}*"])
    assert WeightFiles(tmp_path / "back").keys()


@pytest.mark.parametrize("given", ["bridge", "tower=3", "bridge=0", "bridge=many"])
def test_depth_that_cannot_be_read_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "original", "ours", "--num-layers", given])
    assert "expected PART=N" in capsys.readouterr().err


def test_depths_may_be_stated_in_several_places(original: Path, tmp_path: Path) -> None:
    apart = [each for stated in STATED[1:] for each in ("--num-layers", stated)]
    main(["import", str(original), str(tmp_path / "ours"), "--encoder-heads", "4", *apart])
    settings = json.loads((tmp_path / "ours" / "image_encoder" / "config.json").read_text(encoding="utf-8"))
    assert settings["num_hidden_layers"] == 3
