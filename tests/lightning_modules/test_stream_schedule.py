"""Training leaves visual streams out as the schedule says for the number of the batch; nothing else does."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from components.interfaces import StreamSchedule
from components.stream_dropout import StreamDropout
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import TWO_STREAMS, PartFolders, make_batch, make_module, make_two_readers
from tests.fixtures_training import make_loader, make_trainer

STREAMS = ("memory", "frames")
SCHEDULE = StreamDropout({"frames": 0.5, "memory": 0.2}, seed=1)
NUM_BATCHES = 12


class SaveAfter(Callback):
    """Saves after so many steps."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def two_reader_module(folders: PartFolders, schedule: StreamSchedule | None) -> VideoLanguageModule:
    return make_module(
        folders,
        bridge=None,
        readers=make_two_readers(),
        visual_prompt=TWO_STREAMS,
        stream_schedule=schedule,
        optimization=Optimization({"memory": 1e-3, "frames": 1e-3, "language_model": 1e-3}),
    )


def trained_without(
    folders: PartFolders, folder: Path, *, resume: Path | None = None, **trainer: Any
) -> list[frozenset[str]]:
    """The streams that the model was told to leave out in each batch of a run."""
    module = two_reader_module(folders, SCHEDULE)
    told: list[frozenset[str]] = []
    module.built.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    loader = make_loader([make_batch(folders)] * NUM_BATCHES)
    run = make_trainer(folder, callbacks=[SaveAfter(3, folder / "three-steps.ckpt")], **trainer)
    run.fit(module, loader, ckpt_path=resume)
    return told


def test_every_batch_has_the_draw_of_its_number_and_a_resumed_run_goes_on(folders: PartFolders, tmp_path: Path) -> None:
    expected = [SCHEDULE.left_out(batch, STREAMS) for batch in range(6)]
    assert len(set(expected)) > 1
    assert trained_without(folders, tmp_path, max_steps=6) == expected
    assert trained_without(folders, tmp_path, max_steps=6, resume=tmp_path / "three-steps.ckpt") == expected[3:]


def test_batches_of_one_optimizer_step_have_draws_of_their_own(folders: PartFolders, tmp_path: Path) -> None:
    expected = [SCHEDULE.left_out(batch, STREAMS) for batch in range(NUM_BATCHES)]
    assert trained_without(folders, tmp_path, max_steps=4, accumulate_grad_batches=3) == expected


def test_validation_leaves_nothing_out(folders: PartFolders, tmp_path: Path) -> None:
    validated = [
        make_trainer(tmp_path).validate(
            two_reader_module(folders, schedule), make_loader([make_batch(folders)]), verbose=False
        )
        for schedule in (None, StreamDropout({"frames": 1.0}))
    ]
    assert validated[0] == validated[1]
    assert any("loss" in name for name in validated[0][0])
