"""Two ranks with ZeRO-3 whose conversations show different numbers of media train every reader and never hang."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.components.selection.tiny_dual_encoder import make_dual_encoder
from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_more_readers
from tests.process_group import one_group_at_a_time, run_processes

MORE = ("memories", "readouts", "more_readouts", "reducers", "salient", "chosen")
pytestmark = [pytest.mark.timeout(1500), one_group_at_a_time]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("exact", marks=pytest.mark.slow),
        pytest.param("drawn", marks=pytest.mark.nightly),
        *(pytest.param(name, marks=pytest.mark.nightly) for name in MORE),
    ],
)
def test_two_ranks_train_every_reader_as_one_process(name: str, tmp_path: Path) -> None:
    folders = make_part_folders(tmp_path)
    make_dual_encoder(tmp_path / "clip")
    run_processes(train_more_readers.__name__, [*folders, str(tmp_path), name], 2, timeout=1400)
    losses = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert len(losses) == train_more_readers.NUM_STEPS
    assert all(math.isfinite(loss) for loss in losses)
    if name != "drawn":
        alone = train_more_readers.train("single_device", name, folders, tmp_path, [0, 1])
        torch.testing.assert_close(losses, alone, rtol=0, atol=1e-4)
