"""configs/model/videollamb_7b.yaml with two processes: sharding its encoders and its language model changes no loss.

A batch of one process may be images alone and that of the other one videos, so their encoders run unequally often.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from components.weights.videollamb import main as weights
from tests import run_commands
from tests.fixtures_data import write_shard
from tests.fixtures_videollamb import ENCODER_FACTS, write_original
from tests.process_group import one_group_at_a_time, run_processes
from tests.test_videollamb_7b import CONFIGS, MERGED, every_kind_of_sample

pytestmark = one_group_at_a_time

STRATEGIES = ["ddp", "zero2", "zero3", "fsdp2"]
SPREAD_ALL = "--trainer.strategy.init_args.persistent_elements=0"  # the tiny weights too
EXACT = ["--trainer.precision=32-true", "--model.encoder.init_args.dtype=float32"]
SHORT = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
    "--trainer.max_steps=4",
    "--trainer.log_every_n_steps=1",
    "--trainer.accumulate_grad_batches=1",
    "--data.loading={batch_size: 2, num_workers: 0}",
    "--model.optimization.warmup_fraction=0",
    "--model.max_new_tokens=2",
]


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_sharded_strategies_train_and_validate_as_ddp_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_original(tmp_path / "published")
    weights(["import", "published", "weights/videollamb_7b", *ENCODER_FACTS])
    samples = every_kind_of_sample()
    (tmp_path / "data/videollamb_7b").mkdir(parents=True)
    for part in ("train", "validation"):
        write_shard(tmp_path / f"data/videollamb_7b/{part}-000000.tar", samples)
    commands = []
    for name in STRATEGIES:
        overlay = ["-c", str(CONFIGS / "strategy" / f"{name}.yaml")]
        spread = [SPREAD_ALL] if name == "zero3" else []
        label = f"--trainer.logger.init_args.name={name}"
        commands.append(["fit", *MERGED, *overlay, *EXACT, *SHORT, *spread, label])
    file = tmp_path / "commands.json"
    file.write_text(json.dumps(commands))
    run_processes(run_commands.__name__, [str(file)], 2, timeout=550, folder=tmp_path)
    results: list[dict[str, Any]] = json.loads(file.with_suffix(".results.json").read_text())
    assert [(each["steps"], each["world_size"]) for each in results] == [(4, 2)] * len(STRATEGIES)
    replicated = results[0]["metrics"]
    for sharded in results[1:]:
        for name in ("train/loss", "val/loss/held_out"):
            assert sharded["metrics"][name] == pytest.approx(replicated[name], rel=1e-5)
