"""Ranks with different kinds of samples in their batches make the same calls, so no run deadlocks."""

from pathlib import Path

import pytest

from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_on_mixed_batches
from tests.process_group import run_processes


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("strategy", "schedule", "num_steps"),
    [("zero3", "final", 500), ("zero3", "every", 30), ("fsdp2", "every", 30), ("ddp", "every", 30)],
)
def test_mixed_batches_never_hang(strategy: str, schedule: str, num_steps: int, tmp_path: Path) -> None:
    arguments = [strategy, schedule, str(num_steps), *make_part_folders(tmp_path), str(tmp_path)]
    run_processes(train_on_mixed_batches.__name__, arguments, 2, timeout=1400)
