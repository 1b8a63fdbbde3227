import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from datamodules.batch import Batch
from datamodules.dataset import FailurePolicy
from datamodules.errors import ShardError
from datamodules.instruction import InstructionDataModule
from datamodules.loading import Loading, Source
from datamodules.order import CurriculumStage, TrainingOrder
from datamodules.transforms import Augmentation, PixelOptions
from datamodules.video import FrameSampling
from tests.fixtures_data import RawSample, make_clip, make_record, write_shard

Step = tuple[str, ...]


class Recorder(LightningModule):
    """Notes what it was given and learns one number from it."""

    def __init__(self, *, reads_length_early: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.reads_length_early = reads_length_early
        self.steps: list[Step] = []
        self.losses: list[float] = []
        self.evaluated: dict[int, list[str]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.steps.append(tuple(question.key for question in batch.questions))
        loss = (self.weight * batch.frames.float().mean() / 255 - 0.5) ** 2
        self.losses.append(float(loss.detach()))
        return loss.sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.setdefault(dataloader_idx, []).extend(question.key for question in batch.questions)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        return [question.key for question in batch.questions]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.reads_length_early:  # what Lightning's issue 20550 is about
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KeyFile(Callback):
    """Writes down which samples every process trained on at which step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        with (self.folder / "keys.txt").open("a") as file:
            file.writelines(f"{trainer.global_step} {question.key}\n" for question in batch.questions)

    @staticmethod
    def read(folder: Path) -> dict[int, list[str]]:
        steps: dict[int, list[str]] = {}
        for line in (folder / "keys.txt").read_text().splitlines():
            step, key = line.split()
            steps.setdefault(int(step), []).append(key)
        return {step: sorted(keys) for step, keys in steps.items()}


def samples(prefix: str, count: int, num_frames: int = 1) -> list[RawSample]:
    clip = make_clip(num_frames, width=16, height=16)
    record = make_record(meta={"num_frames": num_frames})
    return [(f"{prefix}{index:02d}", record, clip, "mp4") for index in range(count)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train-0.tar", samples("a", 8))
    write_shard(folder / "train-1.tar", samples("b", 7, num_frames=3))
    write_shard(folder / "long.tar", samples("l", 5, num_frames=2))
    write_shard(folder / "short.tar", samples("s", 3))
    return folder


@pytest.fixture
def make(shards: Path, tokenizer_folder: Path) -> Callable[..., InstructionDataModule]:
    def build(**changes: Any) -> InstructionDataModule:
        settings: dict[str, Any] = {
            "train": [Source(str(shards / "train-*.tar"))],
            "sampling": FrameSampling(num_frames=2),
            "pixels": PixelOptions(16, augmentation=Augmentation(horizontal_flip=0.5, color_jitter=0.5)),
            "loading": Loading(batch_size=4, num_workers=0),
        }
        return InstructionDataModule(str(tokenizer_folder), **(settings | changes))

    return build


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks), **options,
    )  # fmt: skip


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


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


def test_resume_is_exact_with_accumulation_and_validation_between(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "max_steps": 5, "val_check_interval": 2}
    settings = {"validation": {"short": str(shards / "short.tar")}, "num_steps": 5}
    straight, resumed = Recorder(), Recorder()
    trainer(tmp_path, checkpoints(tmp_path), **options).fit(straight, datamodule=make(**settings))
    trainer(tmp_path, **options).fit(resumed, datamodule=make(**settings), ckpt_path=str(tmp_path / "step=2.ckpt"))
    assert len(straight.steps) == 10
    assert resumed.steps == straight.steps[4:]
    assert resumed.losses == straight.losses[4:]


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
    "changes",
    [
        {"order": TrainingOrder(seed=1)},
        {"num_steps": 9},
        {"order": TrainingOrder(shuffle_block=2)},
    ],
)
def test_resuming_with_other_data_settings_is_refused(
    make: Callable[..., InstructionDataModule], tmp_path: Path, changes: dict[str, Any]
) -> None:
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(Recorder(), datamodule=make())
    with pytest.raises(ValueError, match="would repeat or lose samples"):
        trainer(tmp_path, max_steps=4).fit(
            Recorder(), datamodule=make(**changes), ckpt_path=str(tmp_path / "step=2.ckpt")
        )


def test_a_checkpoint_is_judged_without_training_data(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(Recorder(), datamodule=make())
    model = Recorder()
    data = make(train=None, validation={"short": str(shards / "short.tar")})
    trainer(tmp_path).validate(model, datamodule=data, ckpt_path=str(tmp_path / "step=2.ckpt"), verbose=False)
    assert model.evaluated == {0: ["s00", "s01", "s02"]}
    assert data.state_dict()["samples_consumed"] == 8


def test_ranks_split_the_batches_of_one_process(make: Callable[..., InstructionDataModule]) -> None:
    class Rank:
        accumulate_grad_batches = 1

        def __init__(self, rank: int, world: int) -> None:
            self.global_rank, self.world_size = rank, world
            connector = type("Connector", (), {"use_distributed_sampler": False})
            self._accelerator_connector = connector
            progress = type("Progress", (), {"processed": 0})
            total = type("Batches", (), {"total": progress})
            self.fit_loop = type("Fit", (), {"epoch_loop": type("Epoch", (), {"batch_progress": total})})

    def keys(rank: int, world: int) -> list[Step]:
        data = make()
        data.trainer = Rank(rank, world)  # type: ignore[assignment]
        return [tuple(question.key for question in batch.questions) for batch in data.train_dataloader()]

    alone = keys(0, 1)
    for world in (2, 4):
        parts = zip(*(keys(rank, world) for rank in range(world)), strict=True)
        for whole, split in zip(alone, parts, strict=True):
            assert sorted(whole) == sorted(key for part in split for key in part)
            assert {len(part) for part in split} == {4 // world}


def test_another_sampler_is_refused_on_several_ranks(make: Callable[..., InstructionDataModule]) -> None:
    data = make()
    connector = type("Connector", (), {"use_distributed_sampler": True})
    data.trainer = type("Many", (), {"world_size": 2, "_accelerator_connector": connector})()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"set trainer.use_distributed_sampler: false \(configs/base.yaml does\)"):
        data.train_dataloader()


def test_evaluation_sets_come_in_order_and_once(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    sets = {"long": str(shards / "long.tar"), "short": [str(shards / "short.tar")]}
    data = make(
        validation=sets, test=sets, predict=sets, loading=Loading(batch_size=9, eval_batch_size=2, num_workers=0)
    )
    assert data.validation_names == data.test_names == data.predict_names == ["long", "short"]
    expected = {0: [f"l{index:02d}" for index in range(5)], 1: [f"s{index:02d}" for index in range(3)]}
    for run in ("validate", "test"):
        model = Recorder()
        getattr(trainer(tmp_path), run)(model, datamodule=data, verbose=False)
        assert model.evaluated == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        predicted = trainer(tmp_path).predict(Recorder(), datamodule=data)
    assert predicted is not None
    assert [[key for batch in one for key in batch] for one in predicted] == list(expected.values())


def test_curriculum_follows_the_run_length(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    model = Recorder()
    data = make(num_steps=10, order=TrainingOrder(curriculum=[CurriculumStage(0.4, 1)]))
    trainer(tmp_path, max_steps=10).fit(model, datamodule=data)
    kinds = [{key[0] for key in step} for step in model.steps]
    assert kinds[:4] == [{"a"}] * 4
    assert {"b"} <= set.union(*kinds[4:])
    assert len(model.steps) == 10


def test_sources_are_mixed_by_weight(make: Callable[..., InstructionDataModule], shards: Path) -> None:
    sources = [Source(str(shards / "long.tar"), weight=2.0), Source([str(shards / "short.tar")])]
    loader = make(train=sources, loading=Loading(batch_size=13, num_workers=0)).train_dataloader()
    keys = [question.key for question in next(iter(loader)).questions]
    assert sorted(keys) == sorted([f"l{index:02d}" for index in range(5)] * 2 + [f"s{index:02d}" for index in range(3)])


def test_the_same_seed_gives_the_same_losses_twice(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    for model in (first, second):
        trainer(tmp_path, max_steps=5).fit(model, datamodule=make())
    assert first.losses == second.losses
    other = Recorder()
    trainer(tmp_path, max_steps=5).fit(other, datamodule=make(order=TrainingOrder(seed=9)))
    assert other.steps != first.steps


def test_skipped_samples_of_worker_processes_are_listed(
    shards: Path, make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    broken = [("x", make_record(), make_clip(2)[:300], "mp4")]
    write_shard(tmp_path / "x.tar", [*samples("g", 3), *broken])
    listed = tmp_path / "skipped.jsonl"
    loading = Loading(batch_size=4, num_workers=1, failures=FailurePolicy("skip", str(listed)))
    model = Recorder()
    trainer(tmp_path, max_steps=2).fit(model, datamodule=make(train=[Source(str(tmp_path / "x.tar"))], loading=loading))
    assert [len(step) for step in model.steps] == [3, 3]
    assert len(listed.read_text().splitlines()) >= 2
    assert "key 'x'" in listed.read_text()


def test_preparing_leaves_indexes_for_the_other_ranks(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    for name in ("t", "v"):
        write_shard(tmp_path / f"{name}.tar", samples(name, 2))
    make(train=[Source(str(tmp_path / "t.tar"))], validation={"v": str(tmp_path / "v.tar")}).prepare_data()
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["t.tar.index.json", "v.tar.index.json"]


def test_every_setting_comes_from_the_command_line(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
        trainer: {{max_steps: 7, use_distributed_sampler: false, logger: false, accelerator: cpu}}
        data:
          tokenizer: {tokenizer_folder}
          train: [{{shards: {shards}/train-*.tar, weight: 0.5}}, {{shards: [{shards}/long.tar]}}]
          validation: {{1x: {shards}/short.tar, 2x: [{shards}/long.tar]}}
          sampling: {{num_frames: null, fps: 2, max_frames: 8}}
          pixels: {{size: 16, fit: pad, augmentation: {{horizontal_flip: 0.5}}}}
          order: {{seed: 3, curriculum: [{{until_fraction: 0.4, max_frames: 4}}]}}
          loading: {{batch_size: 2, failures: {{on_error: skip, skipped_file: {tmp_path}/skipped.jsonl}}}}
        """
    )
    cli = LightningCLI(Recorder, InstructionDataModule, args=["-c", str(config), "--data.order.seed=4"], run=False)
    data = cli.datamodule
    assert data.train_sources == [Source(f"{shards}/train-*.tar", 0.5), Source([f"{shards}/long.tar"])]
    assert data.validation_names == ["1x", "2x"]
    assert data.sampling == FrameSampling(num_frames=None, fps=2, max_frames=8)
    assert data.pixels == PixelOptions(16, "pad", Augmentation(horizontal_flip=0.5))
    assert data.order == TrainingOrder(seed=4, curriculum=[CurriculumStage(0.4, 4)])
    assert data.loading.failures == FailurePolicy("skip", f"{tmp_path}/skipped.jsonl")


@pytest.mark.slow
def test_a_run_goes_on_exactly_with_another_number_of_processes(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"use_distributed_sampler": False, "strategy": "ddp_fork"}
    loading = Loading(batch_size=4, num_workers=1)

    def run(devices: int, end: int, last: str | None, folder: Path) -> None:
        data = make(loading=loading)
        trainer(folder, checkpoints(folder), KeyFile(folder), devices=devices, max_steps=end, **options).fit(
            Recorder(reads_length_early=True), datamodule=data, ckpt_path=last
        )

    (tmp_path / "straight").mkdir()
    run(1, 6, None, tmp_path / "straight")
    changing = tmp_path / "changing"
    changing.mkdir()
    for devices, end, last in ((2, 2, None), (1, 4, 2), (2, 6, 4)):
        run(devices, end, None if last is None else str(changing / f"step={last}.ckpt"), changing)
    assert KeyFile.read(changing) == KeyFile.read(tmp_path / "straight")
    assert len(KeyFile.read(changing)) == 6


def test_missing_data_is_named(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shard matches '.*gone-"):
        trainer(tmp_path, max_steps=1).fit(Recorder(), datamodule=make(train=[Source(str(tmp_path / "gone-*.tar"))]))
    with pytest.raises(ValueError, match=r"set data.train to a list of sources"):
        make(train=[]).train_dataloader()


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"eval_batch_size": 0}, {"num_workers": -1}, {"max_length": 0}])
def test_senseless_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Loading(**sizes)
