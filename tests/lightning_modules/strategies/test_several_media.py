"""Two ranks whose conversations show different numbers of media train as one process does, and never hang."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.fixtures_models import make_part_folders
from tests.lightning_modules.strategies import train_on_several_media
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = [pytest.mark.timeout(1500), one_group_at_a_time]


def train_on_two_ranks(folder: Path, runs: list[str]) -> dict[str, list[float]]:
    """Losses of every run, ``strategy,schedule,steps``."""
    arguments = [*make_part_folders(folder), str(folder), *runs]
    run_processes(train_on_several_media.__name__, arguments, 2, timeout=1400)
    return {run: json.loads((folder / f"{run}.json").read_text()) for run in runs}


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(["zero3,final,16", "zero3,every,16"], marks=pytest.mark.slow),
        pytest.param(["fsdp2,every,16", "ddp,final,16"], marks=pytest.mark.nightly),
    ],
    ids=["zero3", "others"],
)
def test_two_ranks_with_several_media_and_readers_train_as_one_process(runs: list[str], tmp_path: Path) -> None:
    """Sixteen steps hold each pair of text alone, an image, several media and all of these once."""
    results = train_on_two_ranks(tmp_path, runs)
    folders = make_part_folders(tmp_path)
    alone = {
        schedule: train_on_several_media.train("single_device", schedule, 16, folders, tmp_path, [0, 1])
        for schedule in ("final", "every")
    }
    for run, losses in results.items():
        assert len(losses) == 16
        torch.testing.assert_close(losses, alone[run.split(",")[1]], rtol=0, atol=1e-4)


@pytest.mark.nightly
def test_two_hundred_steps_with_several_media_do_not_hang(tmp_path: Path) -> None:
    [losses] = train_on_two_ranks(tmp_path, ["zero3,final,200"]).values()
    assert len(losses) == 200
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-50:]) < sum(losses[:50]), "nothing was learned"
