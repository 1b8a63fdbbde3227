from pathlib import Path

import pytest

from tests.fixtures_models import PartFolders
from tests.lightning_modules.checkpoints.run_jobs import NUM_STEPS, SAVED_AT, Job, run_jobs

SEVERAL = ("ddp", "zero1", "zero2", "zero2_offload", "zero3", "fsdp2")
ALONE = ("single_device", "ddp", "zero2", "zero3", "fsdp2")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_strategy_and_number_of_ranks_goes_on_from_the_checkpoint_of_any(
    folders: PartFolders, tmp_path: Path
) -> None:
    def place(strategy: str, num_ranks: int) -> str:
        return str(tmp_path / f"{strategy}-{num_ranks}.ckpt")

    straight = run_jobs([Job(name, save=place(name, 2)) for name in SEVERAL], folders, tmp_path, 2)
    [alone] = run_jobs([Job("single_device", save=place("single_device", 1))], folders, tmp_path, 1)
    uninterrupted = straight[0]
    assert len(uninterrupted) == NUM_STEPS
    for losses in (*straight, alone):
        assert losses == pytest.approx(uninterrupted, rel=1e-5)

    pairs = [(saver, opener) for saver in (*SEVERAL, "single_device") for opener in SEVERAL]
    jobs = [Job(opener, resume=place(saver, 1 if saver == "single_device" else 2)) for saver, opener in pairs]
    for (saver, opener), losses in zip(pairs, run_jobs(jobs, folders, tmp_path, 2), strict=True):
        assert losses == pytest.approx(uninterrupted[SAVED_AT:], rel=1e-5), (saver, opener)
        if saver == opener:
            assert losses == straight[SEVERAL.index(saver)][SAVED_AT:], saver

    pairs = [(saver, opener) for saver in (*SEVERAL, "single_device") for opener in ALONE]
    jobs = [Job(opener, resume=place(saver, 1 if saver == "single_device" else 2)) for saver, opener in pairs]
    for (saver, opener), losses in zip(pairs, run_jobs(jobs, folders, tmp_path, 1), strict=True):
        assert losses == pytest.approx(uninterrupted[SAVED_AT:], rel=1e-5), (saver, opener)
        if saver == opener == "single_device":
            assert losses == alone[SAVED_AT:]
