"""Ranks whose batches hold different things make the same calls: no run ever waits for ever."""

from pathlib import Path

import pytest

from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_on_mixed_batches
from tests.process_group import run_processes


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strategy", "num_steps"), [("zero3", 500), ("fsdp2", 60), ("ddp", 60)])
def test_mixed_batches_never_hang(strategy: str, num_steps: int, tmp_path: Path) -> None:
    arguments = [strategy, *make_part_folders(tmp_path), str(tmp_path), str(num_steps)]
    run_processes(train_on_mixed_batches.__name__, arguments, 2, timeout=800)
