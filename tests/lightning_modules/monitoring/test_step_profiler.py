import gzip
import json
from pathlib import Path

import pytest

from lightning_modules.monitoring import StepProfiler
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import make_loader, make_trainer


def train(folders: PartFolders, folder: Path, num_batches: int, profiler: StepProfiler) -> list[Path]:
    trainer = make_trainer(folder, num_batches, callbacks=[profiler])
    trainer.fit(make_module(folders), make_loader([make_batch(folders)] * num_batches))
    return list((folder / "profile").glob("*"))


def test_chosen_steps_are_recorded_with_their_phases(folders: PartFolders, tmp_path: Path) -> None:
    [path] = train(folders, tmp_path, 6, StepProfiler(skip_batches=1, num_batches=2, memory=True))
    assert path.name.startswith("rank0.")
    assert path.name.endswith(".pt.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {name: names.count(name) for name in names if name.startswith("phase")} == {
        "phase: forward": 2,
        "phase: backward": 2,
        "phase: optimizer": 2,
    }
    assert any(event["name"] == "[memory]" for event in events)


def test_run_that_is_too_short_ends_well(folders: PartFolders, tmp_path: Path) -> None:
    train(folders, tmp_path, 2, StepProfiler(skip_batches=5))


@pytest.mark.parametrize("numbers", [(-1, 3), (5, 0)])
def test_numbers_that_record_nothing_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {numbers[0]} and {numbers[1]}"):
        StepProfiler(*numbers)
