"""The stages of the Memory-Augmented VLM with two processes: no strategy changes a loss, nor does a resumed run.

In the first stages a batch is of videos, of pictures in tiles or of text alone. So there are steps in which a part has
nothing to do, and steps in which the frames are left out. DDP looks for no unused parameters.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.stream_dropout import StreamDropout
from tests import run_commands
from tests.config_models import CONFIGS
from tests.fixtures_memory_ov import (
    assert_moved_by_rates,
    every_kind_of_sample,
    model_files,
    stage_file,
    weights_in,
    weights_of_files,
    write_data,
    write_parts,
    write_small_sizes,
)
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900), one_group_at_a_time]

ALONE = "alone"
STRATEGIES = ["ddp", "zero2", "zero3", "fsdp2"]
SPREAD_ALL = "--trainer.strategy.init_args.persistent_elements=0"  # the tiny weights too
NUM_STEPS = 4
SHORT = [
    "--trainer.precision=32-true",
    "--model.encoder.init_args.dtype=float32",
    "--trainer.accelerator=cpu",
    f"--trainer.max_steps={NUM_STEPS}",
    "--trainer.log_every_n_steps=1",
    "--trainer.accumulate_grad_batches=1",
    "--data.loading={batch_size: 2, num_workers: 0}",
    "--model.optimization.warmup_fraction=0",
    "--model.max_new_tokens=2",
]
SMALL_MULTIPLES = "--model.frame_resampling.init_args.frames=4"
OF_ONE_KIND = "--data.order.modalities=separate"
KEEP_ALL = ["--checkpoint.every_n_steps=1", "--checkpoint.keep_every_n_steps=1"]
HALF = f"step-{NUM_STEPS // 2:08d}.ckpt"
Runs = dict[str, dict[str, float]]


def commands(strategy: str, small: list[str], num_processes: int) -> dict[str, list[str]]:
    """Both stages as described, the second one resumed from its half, and the first one as shipped."""
    name = f"--trainer.logger.init_args.name={strategy}"
    spread = [SPREAD_ALL] if strategy == "zero3" else []
    overlay = ["-c", str(CONFIGS / f"strategy/{strategy}.yaml")] if strategy != ALONE else []
    own = [*overlay, *spread, name, *SHORT, f"--trainer.devices={num_processes}"]

    def fit(stage: str, *options: str, model: str = "") -> list[str]:
        files = model_files("0.5b", *([model] if model else []))
        return ["fit", *files, *small, *stage_file(f"memory_ov_{stage}.yaml"), *own, *options]

    half = f"--ckpt_path=runs/{strategy}/stage2/checkpoints/{HALF}"
    return {
        "stage1": fit("stage1", OF_ONE_KIND),
        "stage2": fit("stage2", *KEEP_ALL),
        "resumed": fit("stage2", half, "--trainer.logger.init_args.version=resumed"),
        "shipped_stage1": fit("shipped_stage1", OF_ONE_KIND, SMALL_MULTIPLES, model="memory_ov_as_shipped.yaml"),
    }


def run(named: dict[str, dict[str, list[str]]], folder: Path, num_processes: int) -> dict[str, Runs]:
    """Run all commands in one group of processes; the metrics of each."""
    file = folder / f"commands_{num_processes}.json"
    file.write_text(json.dumps([each for of_one in named.values() for each in of_one.values()]))
    run_processes(run_commands.__name__, [str(file)], num_processes, timeout=800, folder=folder)
    results: list[dict[str, Any]] = json.loads(file.with_suffix(".results.json").read_text())
    assert {(each["steps"], each["world_size"]) for each in results} == {(NUM_STEPS, num_processes)}
    left = iter(results)
    return {strategy: {stage: next(left)["metrics"] for stage in of_one} for strategy, of_one in named.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("memory_ov_strategies")
    write_parts(made)
    write_data(made, every_kind_of_sample(3, 6, 9))
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Runs]:
    """Metrics at the end of every run of every strategy, and of one process alone."""
    small = write_small_sizes(folder)
    alone = run({ALONE: commands(ALONE, small, 1)}, folder, 1)
    return alone | run({strategy: commands(strategy, small, 2) for strategy in STRATEGIES}, folder, 2)


def test_batches_are_with_and_without_frames() -> None:
    settings = yaml.safe_load((CONFIGS / "stages/memory_ov_shipped_stage1.yaml").read_text(encoding="utf-8"))
    schedule = StreamDropout(**settings["model"]["stream_schedule"]["init_args"])
    assert {schedule.left_out(batch) for batch in range(NUM_STEPS)} == {frozenset(), frozenset({"frames"})}


@pytest.mark.parametrize("stage", ["stage1", "stage2", "shipped_stage1"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one_does_under_every_strategy(
    strategy: str, stage: str, results: dict[str, Runs]
) -> None:
    """The validation loss is a mean over batches, whose number depends on the processes; all weights are in it."""
    expected = results[ALONE][stage]["train/loss"], results["ddp"][stage]["val/loss/held_out"]
    found = results[strategy][stage]["train/loss"], results[strategy][stage]["val/loss/held_out"]
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("strategy", [ALONE, *STRATEGIES])
def test_stage_resumed_from_its_half_ends_as_the_uninterrupted_one(strategy: str, results: dict[str, Runs]) -> None:
    for name in ("train/loss", "val/loss/held_out"):
        expected = results[strategy]["stage2"][name]
        assert results[strategy]["resumed"][name] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_part_moves_by_its_own_rate_under_every_strategy(
    strategy: str, folder: Path, results: dict[str, Runs]
) -> None:
    runs = folder / "runs" / strategy
    before = weights_in(runs / "stage1/checkpoints/final.ckpt") | weights_of_files(folder, "0.5b")
    assert_moved_by_rates(before, weights_in(runs / "stage2/checkpoints/step-00000001.ckpt"))
