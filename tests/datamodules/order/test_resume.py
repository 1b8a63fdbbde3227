import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules.batch import Batch
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.frame_sampling import FrameSampling
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import Cost
from datamodules.order.training_order import CurriculumStage, TrainingOrder
from tests.datamodules.order import train_with_processes
from tests.datamodules.recorder import Recorder, checkpoints, trainer
from tests.process_group import one_group_at_a_time, run_processes

BUDGET = Budget(max_frames=24, max_tokens=600, group_size=2)


@pytest.mark.parametrize(
    ("num_workers", "reads_length_early", "stop"),
    [
        (0, False, 2),
        (0, True, 2),
        (2, True, 2),
        (0, False, 3),
        (0, True, 3),
        (0, False, 4),
        (2, False, 5),
        (0, True, 5),
    ],
)
def test_a_resumed_run_trains_on_the_samples_of_an_uninterrupted_one(
    make: Callable[..., InstructionDataModule], tmp_path: Path, num_workers: int, reads_length_early: bool, stop: int
) -> None:
    loading = Loading(batch_size=4, num_workers=num_workers)
    straight = Recorder(reads_length_early=reads_length_early)
    data = make(loading=loading)
    trainer(tmp_path, checkpoints(tmp_path), max_steps=7).fit(straight, datamodule=data)  # 15 samples: 3 steps an epoch
    assert data.samples_consumed == 28
    resumed = Recorder(reads_length_early=reads_length_early)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer(tmp_path, max_steps=7).fit(
            resumed, datamodule=make(loading=loading), ckpt_path=str(tmp_path / f"step={stop}.ckpt")
        )
    assert resumed.steps == straight.steps[stop:]
    assert resumed.losses == straight.losses[stop:]


WAYS: dict[str, tuple[TrainingOrder, Loading]] = {
    "budget": (TrainingOrder(window=16), Loading(None, BUDGET, cost=Cost(visual_tokens=2), num_workers=0)),
    "budget, separate modalities": (
        TrainingOrder(window=16, modalities="separate"),
        Loading(None, BUDGET, cost=Cost(visual_tokens=2), num_workers=0),
    ),
    "budget, divided conversations": (
        TrainingOrder(window=16, conversations_per_video=2),
        Loading(None, BUDGET, cost=Cost(visual_tokens=2), num_workers=2),
    ),
    "separate modalities": (TrainingOrder(modalities="separate"), Loading(4, num_workers=0)),
    "divided conversations": (TrainingOrder(conversations_per_video=1), Loading(4, num_workers=2)),
    "temperature": (TrainingOrder(temperature=3.0), Loading(4, num_workers=0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_make_batches_resumes_exactly(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path, way: str
) -> None:
    def data() -> InstructionDataModule:
        order, loading = WAYS[way]
        sources = [Source(str(shards / f"mixed-{number}.tar")) for number in (0, 1)]
        return make(train=sources, order=order, loading=loading)

    straight = Recorder()
    whole = data()
    trainer(tmp_path, checkpoints(tmp_path), max_steps=14).fit(straight, datamodule=whole)
    for stop in (4, 9):
        resumed, rest = Recorder(), data()
        trainer(tmp_path, max_steps=14).fit(resumed, datamodule=rest, ckpt_path=str(tmp_path / f"step={stop}.ckpt"))
        assert rest.samples_consumed == whole.samples_consumed
        assert resumed.asked == straight.asked[stop:]
        assert resumed.losses == straight.losses[stop:]


def test_a_fixed_batch_size_may_change_at_a_restart(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    straight, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=6).fit(straight, datamodule=make(loading=Loading(2, num_workers=0)))
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(first, datamodule=make(loading=Loading(2, num_workers=0)))
    trainer(tmp_path, max_steps=4).fit(
        second, datamodule=make(loading=Loading(4, num_workers=0)), ckpt_path=str(tmp_path / "step=2.ckpt")
    )
    assert sum(first.steps + second.steps, ()) == sum(straight.steps, ())


def test_a_finished_run_goes_on_for_longer(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    straight, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=4).fit(straight, datamodule=make(num_steps=4))
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(first, datamodule=make(num_steps=2))
    trainer(tmp_path, max_steps=4).fit(second, datamodule=make(num_steps=4), ckpt_path=str(tmp_path / "step=2.ckpt"))
    assert first.steps + second.steps == straight.steps


def test_resuming_twice_loses_and_doubles_nothing(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    steps = []
    last = None
    for end in (2, 5, 8):
        model = Recorder()
        trainer(tmp_path, checkpoints(tmp_path), max_steps=end).fit(model, datamodule=make(), ckpt_path=last)
        last = str(tmp_path / f"step={end}.ckpt")
        steps += model.steps
    keys = [key for step in steps for key in step]
    assert len(keys) == 32
    assert len(set(keys[:15])) == len(set(keys[15:30])) == 15


@pytest.mark.parametrize("way", ["divided conversations", "budget"])
def test_resume_is_exact_with_accumulation_and_validation_between(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path, way: str
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "max_steps": 5, "val_check_interval": 2}
    order, loading = WAYS[way]
    settings = {"validation": {"short": str(shards / "short.tar")}, "num_steps": 5, "order": order, "loading": loading}
    straight, resumed = Recorder(), Recorder()
    trainer(tmp_path, checkpoints(tmp_path), **options).fit(straight, datamodule=make(**settings))
    trainer(tmp_path, **options).fit(resumed, datamodule=make(**settings), ckpt_path=str(tmp_path / "step=2.ckpt"))
    assert len(straight.steps) == 10
    assert resumed.steps == straight.steps[4:]
    assert resumed.losses == straight.losses[4:]


@pytest.mark.parametrize("loading", [Loading(4, num_workers=0), WAYS["budget"][1]], ids=["size", "budget"])
def test_a_state_in_the_middle_of_an_optimizer_step_counts_none_of_its_batches(
    make: Callable[..., InstructionDataModule], tmp_path: Path, loading: Loading
) -> None:
    class States(Callback):
        def __init__(self) -> None:
            self.consumed: list[int] = []

        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            self.consumed.append(data.state_dict()["samples_consumed"])

    data, seen = make(num_steps=3, loading=loading), States()
    trainer(tmp_path, seen, accumulate_grad_batches=3, max_steps=3).fit(Recorder(), datamodule=data)
    assert len(seen.consumed) == 9
    assert seen.consumed[0] == seen.consumed[1] == 0
    assert seen.consumed[2] == seen.consumed[3] == seen.consumed[4] > 0
    assert seen.consumed[5] == seen.consumed[6] == seen.consumed[7] > seen.consumed[2]
    assert seen.consumed[8] > seen.consumed[5]


def test_a_batch_whose_step_failed_is_trained_on_after_resuming(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    class Save(Callback):
        def on_exception(self, trainer: Trainer, *_: object) -> None:
            trainer.save_checkpoint(tmp_path / "failed.ckpt")

    class Failing(Recorder):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            if self.global_step == 2:
                raise RuntimeError("out of memory")
            return super().training_step(batch, batch_idx)

    straight, failing, resumed = Recorder(), Failing(), Recorder()
    trainer(tmp_path, max_steps=4).fit(straight, datamodule=make())
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(tmp_path, Save(), max_steps=4).fit(failing, datamodule=make())
    trainer(tmp_path, max_steps=4).fit(resumed, datamodule=make(), ckpt_path=str(tmp_path / "failed.ckpt"))
    assert failing.steps + resumed.steps == straight.steps


def test_a_state_that_is_restored_after_the_iterator_was_made_takes_effect(
    make: Callable[..., InstructionDataModule],
) -> None:
    data = make(loading=Loading(batch_size=4, num_workers=1))
    first = iter(data.train_dataloader())  # what sharding strategies do before they restore
    data.load_state_dict(make_state(make, 8))
    second = next(iter(make().train_dataloader()))
    resumed = next(first)
    straight = list(make().train_dataloader())
    assert second.questions == straight[0].questions
    assert resumed.questions == straight[2].questions
    assert torch.equal(resumed.frames, straight[2].frames)


def make_state(make: Callable[..., InstructionDataModule], samples_consumed: int) -> dict[str, Any]:
    data = make()
    data.train_dataloader()
    return data.state_dict() | {"samples_consumed": samples_consumed}


def test_state_counts_what_was_trained_on_and_not_what_was_fetched(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    data = make(loading=Loading(batch_size=4, num_workers=1))  # its worker fetches two batches ahead

    class Watch(Callback):
        states: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, *_: object) -> None:
            self.states.append(data.state_dict()["samples_consumed"])

    trainer(tmp_path, Watch(), max_steps=3).fit(Recorder(), datamodule=data)
    assert Watch.states == [4, 8, 12]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"order": TrainingOrder(seed=1)}, "order.seed: 0 -> 1"),
        ({"order": TrainingOrder(curriculum=[CurriculumStage(5, 1)])}, "order.curriculum"),
        ({"order": TrainingOrder(shuffle_block=2)}, "order.shuffle_block: 1000 -> 2"),
        ({"order": TrainingOrder(conversations_per_video=2)}, "order.conversations_per_video: null -> 2"),
        ({"loading": Loading(None, BUDGET, cost=Cost(visual_tokens=2))}, "budget: null -> .*max_frames"),
    ],
)
def test_resuming_with_other_data_settings_is_refused(
    make: Callable[..., InstructionDataModule], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(Recorder(), datamodule=make())
    with pytest.raises(ValueError, match=f"would repeat or lose samples. Changed: .*{named}"):
        trainer(tmp_path, max_steps=4).fit(
            Recorder(), datamodule=make(**changes), ckpt_path=str(tmp_path / "step=2.ckpt")
        )


def test_resuming_a_budget_with_other_lengths_is_refused(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    loading = Loading(None, BUDGET, cost=Cost(visual_tokens=2), num_workers=0)
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(Recorder(), datamodule=make(loading=loading))
    with pytest.raises(ValueError, match="Changed: lengths of the samples"):
        trainer(tmp_path, max_steps=4).fit(
            Recorder(),
            datamodule=make(loading=loading, sampling=FrameSampling(num_frames=3)),
            ckpt_path=str(tmp_path / "step=2.ckpt"),
        )


def read_keys(folder: Path) -> dict[int, list[str]]:
    """The samples that all processes together trained on, by step."""
    steps: dict[int, list[str]] = {}
    for path in folder.glob("keys-*.txt"):
        for line in path.read_text().splitlines():
            step, key = line.split()
            steps.setdefault(int(step), []).append(key)
    return {step: sorted(keys) for step, keys in steps.items()}


@one_group_at_a_time
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_goes_on_exactly_with_another_number_of_processes(
    shards: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    def run(num_processes: int, end: int, last: int, folder: Path) -> None:
        command = [str(shards), str(tokenizer_folder), str(folder), str(num_processes), str(end), str(last)]
        run_processes(train_with_processes.__name__, command, num_processes)

    run(1, 6, 0, tmp_path / "straight")
    for num_processes, end, last in ((2, 2, 0), (1, 4, 2), (2, 6, 4)):
        run(num_processes, end, last, tmp_path / "changing")
    for way in train_with_processes.WAYS:
        changed = read_keys(tmp_path / "changing" / way)
        assert changed == read_keys(tmp_path / "straight" / way), way
        assert len(changed) == 6, way
