"""Freezing, averages, clipping and steps left out, under every strategy with two processes."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures_models import WITHOUT_GRADIENT, PartFolders
from tests.lightning_modules.optimization.train_with_strategy import BAD, START, STEPS
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = one_group_at_a_time


class Run(NamedTuple):
    """What both ranks wrote."""

    taken: list[list[dict[str, str]]]
    logged: dict[str, list[float]]
    weights: dict[str, torch.Tensor]


def train(
    folders: PartFolders, out: Path, strategies: list[str], *, precision: str = "32-true", accumulate: int = 1
) -> dict[str, Run]:
    """Train under one strategy after another, in one group of processes."""
    arguments = [",".join(strategies), *folders, str(out), precision, str(accumulate)]
    run_processes("tests.lightning_modules.optimization.train_with_strategy", arguments, num_processes=2)
    return {strategy: read(out / strategy) for strategy in strategies}


def read(folder: Path) -> Run:
    written: list[Any] = [json.loads((folder / f"digests-{rank}.json").read_text()) for rank in range(2)]
    weights = [load_file(folder / f"weights-{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items()), "the ranks differ"
    return Run([each["taken"] for each in written], written[0]["logged"], weights[0])


def check(run: Run) -> None:
    """Bad steps change nothing, the frozen part does not move until its step, the ranks stay equal."""
    for taken in run.taken:
        same = [before == after for before, after in itertools.pairwise(taken)]
        assert same == [step in BAD for step in range(STEPS)]
        late = [each["language_model"] for each in taken]
        assert len(set(late[: START + 1])) == 1
        assert late[START + 1] != late[START]
        assert int(taken[-1]["averages"]) > 0
    for mine, others in zip(*run.taken, strict=True):
        assert (mine["bridge"], mine["language_model"]) == (others["bridge"], others["language_model"])
    assert run.logged["train/skipped_steps"] == [sum(bad <= step for bad in BAD) for step in range(STEPS)]
    assert run.logged["learning_rate/language_model"][:START] == [0.0] * START


def test_ddp(folders: PartFolders, tmp_path: Path) -> None:
    check(train(folders, tmp_path, ["ddp"])["ddp"])


@pytest.mark.slow
def test_every_strategy_leaves_out_freezes_and_clips_as_ddp_does(folders: PartFolders, tmp_path: Path) -> None:
    runs = train(folders, tmp_path, ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
    expected = runs["ddp"].weights
    for strategy, run in runs.items():
        check(run)
        assert run.weights.keys() == expected.keys()
        for name, value in run.weights.items():
            if not name.endswith(WITHOUT_GRADIENT):
                torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=f"{strategy}: {name}")


@pytest.mark.slow
def test_bad_steps_in_bfloat16_leave_the_engines_float32_weights_as_they_were(
    folders: PartFolders, tmp_path: Path
) -> None:
    for run in train(folders, tmp_path, ["zero2", "zero3"], precision="bf16-mixed").values():
        check(run)


@pytest.mark.nightly
def test_bad_batch_of_one_rank_spoils_the_accumulated_step_of_all(folders: PartFolders, tmp_path: Path) -> None:
    """Of four steps of two batches, only the second has no bad batch; the language model is still frozen in it."""
    for strategy, run in train(folders, tmp_path, ["ddp", "fsdp2", "zero1"], accumulate=2).items():
        assert run.logged["train/skipped_steps"] == [1, 1, 2, 3], strategy
        for taken in run.taken:
            same = [before == after for before, after in itertools.pairwise(taken)]
            assert same == [True] * 3 + [False] + [True] * 4, strategy
            assert len({each["language_model"] for each in taken}) == 1, strategy
