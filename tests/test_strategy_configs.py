"""Every strategy overlay trains, validates, draws and predicts with two processes through the real command line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests import run_commands
from tests.process_group import one_group_at_a_time, run_processes
from tests.test_configs import CONFIGS, QUICK, config_arguments, workplace  # noqa: F401  workplace is a fixture

pytestmark = one_group_at_a_time

OVERLAYS = [
    "ddp.yaml",
    "zero1.yaml",
    "zero2.yaml",
    "zero3.yaml",
    "zero2_offload.yaml",
    "zero3_offload.yaml",
    "fsdp2.yaml",
]
TOGETHER = ["activation_checkpointing.yaml", "accumulate.yaml"]
BF16 = ["bf16.yaml", *TOGETHER]
KEEPS_FLOAT32 = {"ddp.yaml", "fsdp2.yaml"}  # in bf16 training: weights; ZeRO computes with weights that are bf16
SPREAD_ALL = "--trainer.strategy.init_args.persistent_elements=0"  # the tiny weights too
ALONE = ["single_device.yaml"]  # cannot run with two processes; test_configs.py's way serves it


def overlay(*names: str) -> list[str]:
    return [part for name in names for part in ("-c", str(CONFIGS / "strategy" / name))]


def run(commands: list[list[str]], folder: Path, num_ranks: int) -> list[dict[str, Any]]:
    """Run commands with two processes; what the first process knows after each."""
    file = folder / "commands.json"
    one_set = "--data.validation={1x: runs/quickstart/features/eval-1x-*.tar}"
    settings = ["--trainer.accelerator=cpu", f"--trainer.devices={num_ranks}", one_set]
    file.write_text(json.dumps([[*command, *settings] for command in commands]))
    run_processes(run_commands.__name__, [str(file)], num_ranks, timeout=800, folder=folder)
    results: list[dict[str, Any]] = json.loads(file.with_suffix(".results.json").read_text())
    return results


def assert_alike(losses: dict[str, float], together: list[str]) -> None:
    """Equal up to float32's rounding; in bf16, close where strategies round in the same places."""
    assert all(math.isfinite(loss) for loss in losses.values())
    if together != BF16:
        assert max(losses.values()) - min(losses.values()) < 2e-5
        return
    kept = [loss for name, loss in losses.items() if name in KEEPS_FLOAT32]
    rounded = [loss for name, loss in losses.items() if name not in KEEPS_FLOAT32]
    # Activations of 8 bits: the loss after a step, near 5.6, is known to about two parts in 2 ** 8.
    assert max(kept) - min(kept) < 0.05
    assert max(rounded) - min(rounded) < 0.05
    # The float32 case has the same overlays, so what is left here is how weights of 8 bits are rounded.
    assert max(losses.values()) - min(losses.values()) < 0.1


def command(action: str, name: str, together: list[str]) -> list[str]:
    label = f"--trainer.logger.init_args.name={name}-{len(together)}-{action}"
    spread = [SPREAD_ALL] if name.startswith("zero3") else []
    chain = [action, *config_arguments("quickstart.yaml"), *overlay(name, *together), *spread, label]
    # With accumulation, a step takes four batches.
    quick = [part.replace("limit_train_batches=2", "limit_train_batches=8") if together else part for part in QUICK]
    return [*chain, *quick] if action == "fit" else chain


def check_overlays(names: list[str], together: list[str], predicted: list[str], folder: Path) -> None:
    """Train with each overlay and predict with some; losses agree, and every sample is predicted once."""
    commands = [command("fit", name, together) for name in names]
    commands += [command("predict", name, together) for name in predicted]
    trained = run(commands, folder, 2)[: len(names)]
    assert [(one["steps"], one["world_size"]) for one in trained] == [(2, 2)] * len(names)
    for metric in ("train/loss", "val/loss/1x"):
        assert_alike({name: one["metrics"][metric] for name, one in zip(names, trained, strict=True)}, together)
    for name in predicted:
        folders = (folder / "runs").glob(f"**/{name}-{len(together)}-predict")
        files = [path for each in folders for path in each.rglob("predictions*.jsonl")]
        assert len({line for file in files for line in file.read_text().splitlines()}) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_overlay_trains_validates_and_predicts_with_two_processes(
    workplace: Path,  # noqa: F811
) -> None:
    """Accumulation and bf16 are compared under ZeRO 1 and all others in ``test_equal_training.py``."""
    check_overlays(OVERLAYS, [], OVERLAYS, workplace)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("together", [TOGETHER, BF16], ids=["checkpointing, accumulation", "all in bf16"])
def test_all_overlays_together_with_others(
    together: list[str],
    workplace: Path,  # noqa: F811
) -> None:
    check_overlays(OVERLAYS, together, OVERLAYS, workplace)


@pytest.mark.nightly
def test_two_nodes_by_environment_train_as_one_node_does(workplace: Path) -> None:  # noqa: F811
    command = ["fit", *config_arguments("quickstart.yaml"), *overlay("zero2.yaml"), *QUICK]
    [one_node] = run([command], workplace, 2)
    file = workplace / "nodes.json"
    settings = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=2"]
    one_set = "--data.validation={1x: runs/quickstart/features/eval-1x-*.tar}"
    file.write_text(json.dumps([[*command, *settings, one_set]]))
    run_processes(run_commands.__name__, [str(file)], 2, folder=workplace, num_nodes=2)
    [two_nodes] = json.loads(file.with_suffix(".results.json").read_text())
    assert two_nodes["world_size"] == 2
    for name in ("train/loss", "val/loss/1x"):
        assert two_nodes["metrics"][name] == pytest.approx(one_node["metrics"][name], abs=1e-5)


def test_every_overlay_is_run_here_or_with_the_other_configs() -> None:
    files = {path.name for path in (CONFIGS / "strategy").glob("*.yaml")}
    assert files == {*OVERLAYS, *BF16, *ALONE}
