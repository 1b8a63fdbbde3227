"""The memory of the Memory-Augmented VLM comes from its authors' names, with the numbers that they recorded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.readers.fine_frames import FineFrames
from components.weights.llava_onevision import main
from tests.components.bridges.recorded_memory import DEPTH, META, recorded, recorded_segments
from tests.components.tiny_onevision import (
    VISION_FACTS,
    changed_copy,
    make_onevision,
    original_memory,
    save_onevision,
)

TRANSFORMER = "model.recurrent_memory_transformer."
MEMORY_PARTS = ["--part", "memory", "--part", "frames"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_onevision(make_onevision(seed=1), tmp_path_factory.mktemp("source"), "original")


def recorded_checkpoint(file: Path) -> dict[str, Tensor]:
    """Write the recorded weights under the names that they have in a checkpoint, and return them."""
    memory, fuser = recorded("memory_depth2"), recorded("fuser")
    tensors = {TRANSFORMER + name[6:]: each for name, each in memory.items() if name.startswith("state.")}
    tensors |= {f"model.{name}": each for name, each in fuser.items() if name.startswith(("memory_", "token_"))}
    save_file(tensors, file)
    return tensors


def import_recorded(folder: Path) -> tuple[GridMemory, FineFrames, dict[str, Tensor]]:
    """Both readers with the recorded weights, imported, and these weights."""
    tensors = recorded_checkpoint(folder / "recorded.safetensors")
    arguments = [*MEMORY_PARTS, "--memory-layers", str(DEPTH)]
    main(["import", str(folder / "recorded.safetensors"), str(folder / "parts"), *arguments])
    width = META["hidden"]
    memory = GridMemory(
        width,
        width,
        num_cells=META["patches"],
        depth=DEPTH,
        num_heads=META["heads"],
        options=GridMemoryOptions(frame_positions=False),
        weights=str(folder / "parts" / "memory.safetensors"),
    )
    frames = FineFrames(
        width, width, projection="none", type_embedding=True, weights=str(folder / "parts" / "frames.safetensors")
    )
    return memory, frames, tensors


def test_imported_memory_gives_the_recorded_numbers(tmp_path: Path) -> None:
    memory, frames, _ = import_recorded(tmp_path)
    stored, state = recorded("fuser"), None
    with torch.no_grad():
        for segment in recorded_segments("a"):
            state = memory(segment, state)
        assert state is not None
        tokens = memory.read(state).tokens[0]
        shown = frames.type_embedding(stored["in.frames"])  # type: ignore[misc]
    first = tokens[: 8 * META["patches"] : 5]
    torch.testing.assert_close(first, stored["out.memory_typed.first8_every5th"], atol=1e-5, rtol=0)
    torch.testing.assert_close(shown, stored["out.frames_typed"], atol=1e-5, rtol=0)


def test_recorded_memory_comes_back_from_an_export(tmp_path: Path) -> None:
    *_, tensors = import_recorded(tmp_path)
    main(["export", str(tmp_path / "parts"), str(tmp_path / "back.safetensors")])
    back = load_file(tmp_path / "back.safetensors")
    times = back.pop("model.positional_encoding.frame_embed")
    assert torch.equal(times[:64], recorded("temporal_encoding")["sin.frame_embed.first64"])
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def with_memory(tensors: dict[str, Tensor]) -> None:
    tensors |= original_memory(seed=5)


def test_memory_and_frames_share_the_table_of_types(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = changed_copy(original, tmp_path / "source", with_memory)
    main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    stored = original_memory(seed=5)
    memory, frames = (load_file(tmp_path / "parts" / f"{name}.safetensors") for name in ("memory", "frames"))
    table = stored["model.token_type_embedding.weight"]
    assert torch.equal(memory["type_embedding.vector"], table[0])
    assert torch.equal(frames["type_embedding.vector"], table[1])
    fused = stored["model.recurrent_memory_transformer.layers.1.memory_segment_fusion_attention.residual.dense.weight"]
    assert torch.equal(memory["layers.1.attention.output.weight"], fused)
    assert len(memory) == len(stored) - 1  # the times are computed
    assert "positional_encoding.frame_embed (sinusoids, computed)" in capsys.readouterr().out


def test_a_memory_of_other_times_or_other_depth_is_refused(original: Path, tmp_path: Path) -> None:
    def learned(tensors: dict[str, Tensor]) -> None:
        with_memory(tensors)
        tensors["model.positional_encoding.frame_embed"] += 0.1

    def of_one_layer(tensors: dict[str, Tensor]) -> None:
        tensors |= original_memory(num_layers=1)

    source = changed_copy(original, tmp_path / "learned", learned)
    with pytest.raises(ValueError, match=r"frame_embed \[600, 32\] is not the table of 600 fixed sinusoids"):
        main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    source = changed_copy(original, tmp_path / "shallow", of_one_layer)
    missing = r"missing tensor model\.recurrent_memory_transformer\.layers\.1\."
    with pytest.raises(ValueError, match=rf"add --memory-layers 1\n\s*{missing}"):
        main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS, "--memory-layers", "1"])
    assert len(load_file(tmp_path / "parts" / "memory.safetensors")) == len(original_memory(num_layers=1)) - 1
