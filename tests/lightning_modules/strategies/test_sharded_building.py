"""Under ZeRO-3 and FSDP2 no process ever has the complete model in memory, and weights equal those of the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.components.tiny_language import make_model_folder
from tests.fixtures_models import make_encoder_folder
from tests.lightning_modules.strategies import build_sharded
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = one_group_at_a_time

BYTES_OF_FLOAT32 = 4


def store_in_bfloat16(folder: Path) -> None:
    """Convert a model to the form in which most are published."""
    file, config = folder / "model.safetensors", folder / "config.json"
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))


@pytest.mark.parametrize(
    "strategy",
    [pytest.param("zero3", marks=pytest.mark.slow), pytest.param("fsdp2", marks=pytest.mark.nightly)],
)
def test_no_process_holds_the_whole_model(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # returns the memory of freed tensors to the system
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "max_position_embeddings": 256}
    language_model = make_model_folder(tmp_path / "language_model", **wide)
    store_in_bfloat16(language_model)
    encoder, tiny = make_encoder_folder(tmp_path / "encoder"), make_model_folder(tmp_path / "tiny")
    arguments = [strategy, str(encoder), str(tiny), str(language_model), str(tmp_path)]
    run_processes(build_sharded.__name__, arguments, 2)
    for rank in range(2):
        held = json.loads((tmp_path / f"{strategy}-{rank}.json").read_text())
        assert held["whole"] > 35_000_000
        assert held["local"] < 0.51 * held["whole"]
        # Half of the model, and one block while it is built.
        assert held["peak_bytes"] < 0.7 * BYTES_OF_FLOAT32 * held["whole"]
    weights = torch.load(tmp_path / f"{strategy}-weights.pt", weights_only=True)
    stored = load_file(language_model / "model.safetensors")
    assert stored
    for name, weight in stored.items():
        loaded = weights[f"model.language_model.model.{name}"]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, weight.float())
