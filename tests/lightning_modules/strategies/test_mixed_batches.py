"""Ranks with different kinds of samples in their batches make the same calls, so no run deadlocks."""

from pathlib import Path

import pytest

from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_on_mixed_batches
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = one_group_at_a_time


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(["zero3,final,30", "zero3,every,15", "fsdp2,every,15"], marks=pytest.mark.slow),
        pytest.param(["zero3,final,60", "zero3,every,30", "fsdp2,every,30", "ddp,every,30"], marks=pytest.mark.nightly),
        pytest.param(["zero3,final,500"], marks=pytest.mark.nightly),
    ],
)
def test_mixed_batches_never_hang(runs: list[str], tmp_path: Path) -> None:
    """A batch has one of four contents on each rank, so 60 steps hold each of the 16 pairs almost four times."""
    arguments = [*make_part_folders(tmp_path), str(tmp_path), *runs]
    run_processes(train_on_mixed_batches.__name__, arguments, 2, timeout=1400)
