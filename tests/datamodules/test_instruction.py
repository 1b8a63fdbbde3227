import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import LightningCLI

from components.language.chat_template import ChatSettings
from datamodules.failures import FailurePolicy, SkippedSamples
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.picture_tiles import PictureTiles
from datamodules.media.transforms import Augmentation, PixelOptions
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import Cost
from datamodules.order.training_order import CurriculumStage, TrainingOrder
from tests.datamodules.recorder import Recorder, Step, checkpoints, samples, trainer
from tests.fixtures_data import CHAT_TEMPLATE, WORDS, make_clip, make_record, make_tiny_tokenizer, write_shard


def test_a_checkpoint_is_evaluated_without_training_data(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    trainer(tmp_path, checkpoints(tmp_path), max_steps=2).fit(Recorder(), datamodule=make())
    model = Recorder()
    data = make(train=None, validation={"short": str(shards / "short.tar")})
    trainer(tmp_path).validate(model, datamodule=data, ckpt_path=str(tmp_path / "step=2.ckpt"), verbose=False)
    assert model.evaluated == {0: ["s00", "s01", "s02"]}
    assert data.state_dict()["samples_consumed"] == 8


BY_BUDGET = Loading(
    None, Budget(max_frames=24, max_tokens=600, group_size=4), cost=Cost(visual_tokens=2), num_workers=0
)


@pytest.mark.parametrize("loading", [Loading(4, num_workers=0), BY_BUDGET])
def test_ranks_split_the_batches_of_one_process(
    make: Callable[..., InstructionDataModule], shards: Path, loading: Loading
) -> None:
    class Rank:
        accumulate_grad_batches = 1
        num_training_batches = 1

        def __init__(self, rank: int, world: int) -> None:
            self.global_rank, self.world_size = rank, world
            connector = type("Connector", (), {"use_distributed_sampler": False})
            self._accelerator_connector = connector
            progress = type("Progress", (), {"processed": 0})
            total = type("Batches", (), {"total": progress, "current": progress})
            self.fit_loop = type("Fit", (), {"epoch_loop": type("Epoch", (), {"batch_progress": total})})

    def keys(rank: int, world: int) -> list[Step]:
        data = make(train=[Source(str(shards / "mixed-*.tar"))], loading=loading)
        data.trainer = Rank(rank, world)  # type: ignore[assignment]
        # A sample with several questions is named once for each of them.
        return [tuple(dict.fromkeys(question.key for question in batch.questions)) for batch in data.train_dataloader()]

    alone = keys(0, 1)
    for world in (2, 4):
        parts = zip(*(keys(rank, world) for rank in range(world)), strict=True)
        for whole, split in zip(alone, parts, strict=True):
            assert sorted(whole) == sorted(key for part in split for key in part)
            assert {len(part) for part in split} == {len(whole) // world}


def test_evaluation_sets_come_in_order_and_once(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    sets = {"long": str(shards / "long.tar"), "short": [str(shards / "short.tar")]}
    data = make(
        validation=sets, test=sets, predict=sets, loading=Loading(batch_size=9, eval_batch_size=2, num_workers=0)
    )
    assert data.names("validation") == data.names("test") == data.names("predict") == ["long", "short"]
    expected = {0: [f"l{index:02d}" for index in range(5)], 1: [f"s{index:02d}" for index in range(3)]}
    for run in ("validate", "test"):
        model = Recorder()
        getattr(trainer(tmp_path), run)(model, datamodule=data, verbose=False)
        assert model.evaluated == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*num_workers.*|.*`srun` command is available")
        predicted = trainer(tmp_path).predict(Recorder(), datamodule=data)
    assert predicted is not None
    assert [[key for batch in one for key in batch] for one in predicted] == list(expected.values())


def test_evaluation_goes_by_the_budget_of_training(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    def batches(**settings: Any) -> list[list[str]]:
        data = make(predict={"long": str(shards / "train-1.tar")}, **settings)
        return [list(dict.fromkeys(one.key for one in batch.questions)) for batch in data.predict_dataloader()[0]]

    every_second = FrameSampling(num_frames=None, fps=4.0)  # all 3 frames of a clip, as its meta tells
    keys = [f"b{number:02d}" for number in range(7)]
    budget = Budget(max_frames=8, group_size=1)
    found = batches(sampling=every_second, loading=Loading(None, budget, num_workers=0))
    assert found == [keys[0:2], keys[2:4], keys[4:6], keys[6:]]
    assert batches(sampling=every_second, loading=Loading(None, budget, eval_batch_size=9, num_workers=0)) == [keys]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_curriculum_counts_optimizer_steps(
    make: Callable[..., InstructionDataModule], tmp_path: Path, accumulated: int
) -> None:
    model = Recorder()
    data = make(num_steps=10, order=TrainingOrder(curriculum=[CurriculumStage(4, 1)]))
    trainer(tmp_path, max_steps=10, accumulate_grad_batches=accumulated).fit(model, datamodule=data)
    kinds = [{key[0] for key in batch} for batch in model.steps]
    assert kinds[: 4 * accumulated] == [{"a"}] * 4 * accumulated
    assert {"b"} <= set.union(*kinds[4 * accumulated : 4 * accumulated + 2])
    assert len(model.steps) == 10 * accumulated


@pytest.mark.parametrize(("num_steps", "is_short"), [(4, True), (5, False), (-1, False)])
def test_a_run_that_ends_within_the_curriculum_is_warned_of(
    make: Callable[..., InstructionDataModule], num_steps: int, is_short: bool, recwarn: pytest.WarningsRecorder
) -> None:
    make(num_steps=num_steps, order=TrainingOrder(curriculum=[CurriculumStage(4, 1)])).train_dataloader()
    told = [
        str(each.message) for each in recwarn if "never trains on samples of more than 1 frames" in str(each.message)
    ]
    assert len(told) == is_short


def test_a_longer_run_begins_as_a_shorter_one(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    seen = []
    for num_steps in (6, 10):
        model = Recorder()
        data = make(num_steps=num_steps, order=TrainingOrder(curriculum=[CurriculumStage(4, 1)]))
        trainer(tmp_path, max_steps=num_steps).fit(model, datamodule=data)
        seen.append(model.steps)
    assert seen[1][:6] == seen[0]


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
          pixels: {{size: 16, fit: stretch, augmentation: {{horizontal_flip: 0.5}}, tiles: {{per_side: 4}}}}
          order: {{seed: 3, curriculum: [{{until_step: 3, max_frames: 4}}]}}
          loading: {{batch_size: 2, failures: {{on_error: skip, skipped_file: {tmp_path}/skipped.jsonl}}}}
        """
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        """
        data:
          order: {temperature: 2, conversations_per_video: 3, modalities: separate, window: 64}
          loading:
            batch_size: null
            budget: {max_frames: 64, max_tokens: 4096, group_size: 4}
            cost: {frame_tokens: 2.5, visual_tokens: 16}
        """
    )
    cli = LightningCLI(
        Recorder, InstructionDataModule, args=["-c", str(config), "-c", str(overlay), "--data.order.seed=4"], run=False
    )
    data = cli.datamodule
    assert data.train_sources == [Source(f"{shards}/train-*.tar", 0.5), Source([f"{shards}/long.tar"])]
    assert data.names("validation") == ["1x", "2x"]
    assert data.sampling == FrameSampling(num_frames=None, fps=2, max_frames=8)
    assert data.pixels == PixelOptions(16, "stretch", Augmentation(horizontal_flip=0.5), PictureTiles(4))
    assert data.order == TrainingOrder(4, [CurriculumStage(3, 4)], 1000, 2.0, 3, "separate", 64)
    assert (data.loading.batch_size, data.loading.budget) == (None, Budget(64, 4096, 4))
    assert data.loading.cost == Cost(2.5, 16)
    assert data.loading.failures == FailurePolicy("skip", f"{tmp_path}/skipped.jsonl")


def test_a_pass_has_a_length_once_training_data_is_there(make: Callable[..., InstructionDataModule]) -> None:
    data = make(train=None)
    assert data.batches_per_pass == 0
    data = make()
    loader = data.train_dataloader()
    assert data.batches_per_pass == len(loader) > 0


@pytest.mark.parametrize(("batch_size", "warned"), [(15, False), (16, True)])
def test_a_batch_larger_than_a_pass_is_warned_of(
    make: Callable[..., InstructionDataModule], batch_size: int, warned: bool
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(num_steps=4, loading=Loading(batch_size=batch_size, num_workers=0)).train_dataloader()
    assert any(f"a batch of {batch_size} is larger than a pass" in str(each.message) for each in caught) == warned


def test_the_chat_settings_of_a_run_reach_its_conversations(
    tokenizer_folder: Path, tmp_path: Path, shards: Path
) -> None:
    template = "{{ strftime_now('%Y') }}\n" + CHAT_TEMPLATE
    folder = make_tiny_tokenizer(tmp_path / "dated", [*WORDS, "2031"], chat_template=template)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{tokenizer: {folder}, pixels: {{size: 16}}, train: [{{shards: {shards}/long.tar}}], "
        "loading: {num_workers: 0, batch_size: 1, chat: {date: 2031-05-06, system_turns: first_question}}}\n"
    )
    data = LightningCLI(Recorder, InstructionDataModule, args=["-c", str(config)], run=False).datamodule
    assert data.loading.chat == ChatSettings("2031-05-06", "first_question")
    batch = next(iter(data.train_dataloader()))
    assert data.tokenizer.decode(batch.input_ids[0, :1]) == "2031"
