import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.checkpoints import atomic_folder
from components.checkpoints.atomic_folder import newest_checkpoint
from components.checkpoints.run_checkpoint import RunCheckpoint
from lightning_modules.checkpoints.keeping import KeepCheckpoints
from tests.lightning_modules.checkpoints.small_runs import batches, make_module, make_trainer, train_and_save

ROOT = Path(__file__).resolve().parents[3]
POINTS = {
    "before the first tensor": "add:1:before",
    "between two tensors": "add:3",
    "before the tensors are on disk": "fsync:1:before",
    "while state and index are written": "index:2:before",
    "when all is written and nothing renamed": "publish:1:before",
    "when it has its name and last.ckpt does not know": "publish:1",
    "before last.ckpt leads to it": "replace:1:before",
    "when last.ckpt leads to it": "replace:1",
    "while the one before is removed": "rmtree:1:before",
}


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs left that were killed, in folders named after the points."""
    folder = tmp_path_factory.mktemp("killed")
    runs = subprocess.run(
        [sys.executable, "-m", "tests.lightning_modules.checkpoints.save_until_killed", str(folder), *POINTS.values()],
        cwd=ROOT, capture_output=True, check=False, timeout=250, text=True,
    )  # fmt: skip
    ends = [line for line in runs.stdout.splitlines() if line.lstrip("-").isdigit()]  # Lightning prints there too
    assert ends == ["-9"] * len(POINTS), runs.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_run_that_is_killed_while_it_saves_goes_on_exactly(tmp_path: Path, killed_runs: Path, point: str) -> None:
    whole = make_module()
    make_trainer(tmp_path, 8).fit(whole, batches())
    kept = killed_runs / point / "kept"
    visible = [path for path in kept.iterdir() if not path.name.startswith(".")]
    assert visible
    steps = {path.name: RunCheckpoint(path).step for path in visible}  # each opens, so each is complete
    assert set(steps.values()) <= {2, 4}
    newest = newest_checkpoint(kept)
    assert newest is not None
    done = RunCheckpoint(newest).step
    resumed = make_module()
    resumed.model["moving"].reset_parameters()
    make_trainer(tmp_path, 8, KeepCheckpoints(every_n_steps=2, folder=str(kept))).fit(
        resumed, batches(done), ckpt_path=newest
    )
    assert resumed.losses == whole.losses[done:]
    assert torch.equal(resumed.model["moving"].weight, whole.model["moving"].weight)
    end = "step-00000008.ckpt"
    assert sorted(path.name for path in kept.iterdir()) == ["final.ckpt", "last.ckpt", end], "and nothing is left over"


class Killed(BaseException):
    """Simulates a kill: no code catches it."""


@pytest.mark.parametrize("number", [1, 2, 3])
def test_overwriting_leaves_a_whole_checkpoint_whenever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.ckpt"
    train_and_save(path, make_module(), 2)
    seen = 0

    def stopping(real: object) -> object:
        def called(*arguments: object, **options: object) -> object:
            nonlocal seen
            seen += 1
            if seen == number:
                raise Killed
            return real(*arguments, **options)  # type: ignore[operator]

        return called

    with monkeypatch.context() as patch:
        patch.setattr(atomic_folder.os, "rename", stopping(os.rename))
        patch.setattr(atomic_folder.shutil, "rmtree", stopping(atomic_folder.shutil.rmtree))
        with pytest.raises(Killed):
            train_and_save(path, make_module(), 3)
    step = RunCheckpoint(path).step
    assert step == (2 if number < 3 else 3)
    assert newest_checkpoint(tmp_path) == path
    train_and_save(path, make_module(), 4)
    assert RunCheckpoint(path).step == 4
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_removing_never_leaves_half_a_checkpoint_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    train_and_save(path, make_module(), 2)
    with monkeypatch.context() as patch:
        patch.setattr(atomic_folder.shutil, "rmtree", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            atomic_folder.remove(path)
    assert not path.exists()
    assert newest_checkpoint(tmp_path) is None
    atomic_folder.tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_are_on_disk_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), real_fsync(file)))
    monkeypatch.setattr(os, "rename", lambda *names: (calls.append("rename"), real_rename(*names)))
    train_and_save(tmp_path / "a.ckpt", make_module(), 2)
    # Tensors, state, index, the folder they are in; then the name.
    assert calls == ["fsync"] * 4 + ["rename", "fsync"]
