"""Two ranks of which one shows pictures in tiles train as one process does, and never hang."""

import json
from pathlib import Path

import pytest
import torch

from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_on_tiles
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = [pytest.mark.timeout(1500), one_group_at_a_time]
STRATEGIES = ["ddp", "zero2", "zero3", "fsdp2"]


@pytest.mark.slow
def test_two_ranks_with_tiles_on_some_train_as_one_process(tmp_path: Path) -> None:
    folders = make_part_folders(tmp_path)
    num_steps = len(train_on_tiles.PAIRS)
    run_processes(train_on_tiles.__name__, [*folders, str(tmp_path), str(num_steps), *STRATEGIES], 2, timeout=1400)
    alone = train_on_tiles.train("single_device", num_steps, folders, tmp_path, [0, 1])
    for strategy in STRATEGIES:
        losses = json.loads((tmp_path / f"{strategy}.json").read_text())
        torch.testing.assert_close(losses, alone, rtol=0, atol=1e-4)
