import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from components.checkpoints.atomic_folder import newest_checkpoint
from components.checkpoints.run_checkpoint import RunCheckpoint
from lightning_modules.checkpoints import keeping
from lightning_modules.checkpoints import portable_checkpoints as strategy
from lightning_modules.checkpoints.keeping import KeepCheckpoints
from tests.lightning_modules.checkpoints.small_runs import batches, make_module, make_trainer


def names(folder: Path) -> dict[str, str | None]:
    """The content of a folder, with the targets of links."""
    return {path.name: os.readlink(path) if path.is_symlink() else None for path in sorted(folder.iterdir())}


def train(folder: Path, max_steps: int = 8, *callbacks: Callback, resume: Path | None = None, **options: Any) -> None:
    keep = KeepCheckpoints(folder=str(folder), **options)
    trainer = make_trainer(folder.parent, max_steps, keep, *callbacks, val_check_interval=2)
    done = 0 if resume is None else RunCheckpoint(resume).step
    trainer.fit(make_module(), batches(done), batches(), ckpt_path=resume)


def test_last_and_final_lead_to_the_end_and_the_rest_is_removed(tmp_path: Path) -> None:
    train(tmp_path / "kept", every_n_steps=3)
    end = "step-00000008.ckpt"
    assert names(tmp_path / "kept") == {"final.ckpt": end, "last.ckpt": end, end: None}


def test_best_and_every_so_many_steps_are_kept(tmp_path: Path) -> None:
    train(tmp_path / "kept", every_n_steps=1, keep_every_n_steps=3, monitor="val/score")
    assert names(tmp_path / "kept") == {
        "best.ckpt": "step-00000004.ckpt",  # the first of two equal ones
        "best.json": None,
        "final.ckpt": "step-00000008.ckpt",
        "last.ckpt": "step-00000008.ckpt",
        "step-00000003.ckpt": None,
        "step-00000004.ckpt": None,
        "step-00000006.ckpt": None,
        "step-00000008.ckpt": None,
    }


def test_best_is_saved_where_no_other_checkpoint_is_due_and_may_be_the_smallest(tmp_path: Path) -> None:
    train(tmp_path / "kept", every_n_steps=5, monitor="val/score", mode="min")
    assert names(tmp_path / "kept")["best.ckpt"] == "step-00000002.ckpt"


def minutes_a_step(monkeypatch: pytest.MonkeyPatch, minutes: float) -> Callback:
    """A clock that advances by training steps only."""
    now = [0.0]

    class Clock(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            now[0] += 60 * minutes

    monkeypatch.setattr(keeping.time, "monotonic", lambda: now[0])
    return Clock()


def test_a_run_saves_by_time_as_well_as_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = note_written(monkeypatch)
    train(tmp_path / "kept", 9, minutes_a_step(monkeypatch, 6), every_n_steps=5, every_minutes=15)
    # 18 minutes after the start; by steps; 18 minutes after that one; the end
    assert written == [f"step-{step:08d}.ckpt" for step in (3, 5, 8, 9)]


def test_without_a_time_only_steps_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = note_written(monkeypatch)
    train(tmp_path / "kept", 9, minutes_a_step(monkeypatch, 600), every_n_steps=5, every_minutes=None)
    assert written == ["step-00000005.ckpt", "step-00000009.ckpt"]


def test_a_run_saves_every_quarter_of_an_hour_if_nothing_else_is_said() -> None:
    assert KeepCheckpoints().every_minutes == 15


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_that_cannot_be_are_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.every_minutes must be above 0"):
        KeepCheckpoints(every_minutes=minutes)


def note_written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checkpoints that are written from now on."""
    written: list[str] = []
    real = strategy.write_checkpoint

    def noting(path: Path, *rest: Any) -> None:
        written.append(path.name)
        real(path, *rest)

    monkeypatch.setattr(strategy, "write_checkpoint", noting)
    return written


def test_nothing_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = strategy.write_checkpoint

    def noting(path: Path, *rest: Any) -> None:
        written.append(path.name)
        real(path, *rest)

    monkeypatch.setattr(strategy, "write_checkpoint", noting)
    train(tmp_path / "kept", every_n_steps=4, monitor="val/score")
    assert written == [f"step-0000000{step}.ckpt" for step in (2, 4, 8)]


def test_moved_run_folder_keeps_its_links_and_its_best(tmp_path: Path) -> None:
    train(tmp_path / "kept", 4, every_n_steps=2, monitor="val/score")
    moved = shutil.move(tmp_path / "kept", tmp_path / "moved")
    assert RunCheckpoint(Path(moved) / "last.ckpt").step == 4
    train(Path(moved), 8, every_n_steps=2, monitor="val/score", resume=Path(moved) / "last.ckpt")
    assert names(Path(moved))["best.ckpt"] == "step-00000004.ckpt", "later ones are not better"
    assert RunCheckpoint(Path(moved) / "last.ckpt").step == 8


def test_stopped_run_has_no_final_checkpoint(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 5

    train(tmp_path / "kept", 8, Stop(), every_n_steps=2)
    assert names(tmp_path / "kept") == {"last.ckpt": "step-00000004.ckpt", "step-00000004.ckpt": None}


def test_accumulated_steps_are_saved_when_they_are_whole(tmp_path: Path) -> None:
    seen = []

    class Look(Callback):
        def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
            seen.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready))

    for resume, max_steps in ((None, 2), (tmp_path / "kept" / "last.ckpt", 4)):
        keep = KeepCheckpoints(every_n_steps=1, folder=str(tmp_path / "kept"))
        trainer = make_trainer(tmp_path, max_steps, keep, Look(), accumulate_grad_batches=2)
        trainer.fit(make_module(), batches(0 if resume is None else 4), ckpt_path=resume)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert all(batch % 2 == 0 for _, batch in seen)


def test_unknown_monitor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint.monitor is 'val/scores'.* it logged \['val/score'\]"):
        train(tmp_path / "kept", monitor="val/scores")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every_n_steps": 0}, "at least 1, got 0"), ({"every_n_steps": 4, "keep_every_n_steps": 6}, "a multiple of")],
)
def test_senseless_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeepCheckpoints(**options)


def test_other_strategies_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[KeepCheckpoints()], default_root_dir=tmp_path
    )
    with pytest.raises(TypeError, match=r"trainer.strategy is SingleDeviceStrategy, whose checkpoints nothing here"):
        trainer.fit(make_module(), batches())


def test_newest_checkpoint_is_the_one_that_was_finished_last(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, tmp_path / "missing") is None
    for name in ("b", "a"):
        train(tmp_path / name, 2)
    assert newest_checkpoint(tmp_path / "a", tmp_path / "b") == tmp_path / "a" / "step-00000002.ckpt"
    (tmp_path / "a" / ".step-00000009.ckpt.writing").mkdir()
    os.rename(tmp_path / "a" / "step-00000002.ckpt", tmp_path / "a" / ".step-00000002.ckpt.replaced")
    found = newest_checkpoint(tmp_path / "a", tmp_path / "b")
    assert found == tmp_path / "a" / "step-00000002.ckpt"
    assert RunCheckpoint(found).step == 2


def test_weights_of_the_end_are_in_the_last_checkpoint(tmp_path: Path) -> None:
    module = make_module()
    keep = KeepCheckpoints(every_n_steps=3, folder=str(tmp_path / "kept"), frozen=True)
    make_trainer(tmp_path, 8, keep).fit(module, batches())
    stored = RunCheckpoint(tmp_path / "kept" / "final.ckpt")
    for name, parameter in module.named_parameters():
        assert torch.equal(stored.weight(name), parameter)
