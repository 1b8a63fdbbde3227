import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from datamodules.errors import ShardError
from datamodules.failures import FailurePolicy, SkippedSamples
from datamodules.instruction import InstructionDataModule
from datamodules.loading import Loading, Source
from datamodules.order import CurriculumStage, TrainingOrder
from datamodules.transforms import Augmentation, PixelOptions
from datamodules.video import FrameSampling
from tests.datamodules.recorder import Recorder, Step, checkpoints, samples, trainer
from tests.fixtures_data import make_clip, make_record, write_shard


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
    assert SkippedSamples(listed).counts() == {"media": 1}
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


def test_missing_data_is_named(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shard matches '.*gone-"):
        trainer(tmp_path, max_steps=1).fit(Recorder(), datamodule=make(train=[Source(str(tmp_path / "gone-*.tar"))]))
    with pytest.raises(ValueError, match=r"set data.train to a list of sources"):
        make(train=[]).train_dataloader()


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"eval_batch_size": 0}, {"num_workers": -1}, {"max_length": 0}])
def test_senseless_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Loading(**sizes)
