"""Settings and data with which a run cannot begin, or cannot go on, are refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import ShardError, TooManySkippedError
from datamodules.failures import FailurePolicy
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.frame_sampling import FrameSampling
from datamodules.order.batch_plan import Budget
from tests.datamodules.recorder import Recorder, samples, trainer
from tests.fixtures_data import make_clip, make_record, write_shard


def test_another_sampler_is_refused_on_several_ranks(make: Callable[..., InstructionDataModule]) -> None:
    data = make()
    connector = type("Connector", (), {"use_distributed_sampler": True})
    data.trainer = type("Many", (), {"world_size": 2, "_accelerator_connector": connector})()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"set trainer.use_distributed_sampler: false \(configs/base.yaml does\)"):
        data.train_dataloader()


def test_videos_of_unknown_length_are_refused_by_a_budget(
    make: Callable[..., InstructionDataModule], tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "unknown.tar", [("x", make_record(), make_clip(2), "mp4")])
    data = make(
        train=[Source(str(shard))],
        predict={"x": str(shard)},
        sampling=FrameSampling(num_frames=None, fps=4.0),
        loading=Loading(None, Budget(max_frames=8, group_size=1), num_workers=0),
    )
    for loader in (data.train_dataloader, data.predict_dataloader):
        with pytest.raises(ValueError, match=r"1 of 1 samples do not state their length.*unknown.tar, key 'x'"):
            loader()


def test_missing_data_is_named(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shard matches '.*gone-"):
        trainer(tmp_path, max_steps=1).fit(Recorder(), datamodule=make(train=[Source(str(tmp_path / "gone-*.tar"))]))
    with pytest.raises(ValueError, match=r"set data.train to a list of sources"):
        make(train=[]).train_dataloader()


@pytest.mark.parametrize("sizes", [{"batch_size": 4, "budget": Budget(max_frames=8)}, {"batch_size": None}])
def test_a_batch_size_and_a_budget_exclude_each_other(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give either batch_size or budget and null for the other"):
        Loading(**sizes)


def test_a_budget_of_tokens_needs_the_number_of_visual_tokens() -> None:
    with pytest.raises(ValueError, match=r"set cost.visual_tokens"):
        Loading(None, Budget(max_tokens=100))


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"eval_batch_size": 0}, {"num_workers": -1}, {"max_length": 0}])
def test_sizes_that_are_not_positive_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Loading(**sizes)


def skipping(folder: Path, **bounds: Any) -> Loading:
    failures = FailurePolicy("skip", str(folder / "skipped.jsonl"), **bounds)
    return Loading(batch_size=4, num_workers=0, failures=failures)


@pytest.mark.parametrize("stage", ["train", "validation"])
def test_a_run_that_leaves_every_sample_out_fails(
    make: Callable[..., InstructionDataModule], tmp_path: Path, stage: str
) -> None:
    bad = str(write_shard(tmp_path / "x.tar", [(key, make_record(), make_clip(2)[:300], "mp4") for key in "abcd"]))
    changes: dict[str, Any] = {"train": [Source(bad)]} if stage == "train" else {"validation": {"bad": bad}}
    data = make(loading=skipping(tmp_path), **changes)
    with pytest.raises(TooManySkippedError, match=r"'(train|validate)': every sample of all \d+ batches was left out"):
        trainer(tmp_path, max_steps=2, val_check_interval=1).fit(Recorder(), datamodule=data)


def test_a_run_that_leaves_out_too_much_ends(make: Callable[..., InstructionDataModule], tmp_path: Path) -> None:
    broken = [(f"x{number}", make_record(), make_clip(2)[:300], "mp4") for number in range(4)]
    shard = write_shard(tmp_path / "x.tar", [*samples("g", 4), *broken])
    data = make(train=[Source(str(shard))], loading=skipping(tmp_path, max_skipped_share=0.02))
    with pytest.raises(TooManySkippedError, match=r"11 of the last \d+ samples were left out \(11 of kind 'media'\)"):
        trainer(tmp_path, max_steps=200).fit(Recorder(), datamodule=data)


LONG = make_record([("hello " * 30, "red")])


@pytest.mark.parametrize("stage", ["train", "validation"])
def test_conversations_that_cannot_be_used_are_known_before_the_first_step(
    make: Callable[..., InstructionDataModule], tmp_path: Path, stage: str
) -> None:
    good = samples("g", 3) if stage == "train" else []  # evaluation leaves wrong samples out
    shard = str(write_shard(tmp_path / "x.tar", [("a", LONG, make_clip(1), "mp4"), *good]))
    changes: dict[str, Any] = {"train": [Source(shard)]} if stage == "train" else {"validation": {"long": shard}}
    data = make(loading=Loading(batch_size=2, num_workers=0, max_length=20), **changes)
    (problem,) = data.start_sample("fit").problems
    assert re.search(r"key 'a', conversation 'q0': \d+ tokens, but max_length is 20", problem)


def test_a_source_of_which_no_conversation_can_be_used_is_a_problem_where_others_may_be_skipped(
    make: Callable[..., InstructionDataModule], shards: Path, tmp_path: Path
) -> None:
    useless = write_shard(tmp_path / "x.tar", [(key, LONG, make_clip(1), "mp4") for key in "ab"])
    mixed = write_shard(tmp_path / "y.tar", [("a", LONG, make_clip(1), "mp4"), *samples("g", 3)])
    failures = FailurePolicy("skip", str(tmp_path / "skipped.jsonl"))
    loading = Loading(batch_size=2, num_workers=0, max_length=20, failures=failures)
    data = make(train=[Source(str(mixed)), Source(str(useless))], loading=loading)
    (problem,) = data.start_sample("fit").problems
    assert str(useless) in problem
