from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from apps.evaluate import command as evaluate
from tests.evaluation_command.held_out_run import Run, held_out_samples
from tests.fixtures_data import write_shard
from tests.fixtures_models import make_part_folders
from tests.fixtures_training import write_run_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    samples = held_out_samples()
    first = write_shard(folder / "held-out-0.tar", samples[:2])
    second = write_shard(folder / "held-out-1.tar", samples[2:])
    shards = {"train": str(first), "validation": str(first), "predict": str(folder / "held-out-*.tar")}
    config = write_run_config(folder, make_part_folders(folder), shards)
    train.main(["fit", "-c", str(config)])
    checkpoint = folder / "run" / "version_0" / "checkpoints" / "final.ckpt"
    return Run(folder, config, checkpoint, [str(first), str(second)])


@pytest.fixture
def run_evaluation(run: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(*more: str) -> dict[str, Any]:
        fixed = ["--checkpoint", str(run.checkpoint), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
        return evaluate.main([*fixed, *more])

    return call
