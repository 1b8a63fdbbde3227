"""What two ranks log together is what one rank logs alone, under every strategy."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_models import PartFolders
from tests.lightning_modules.monitoring.monitor_with_strategies import monitored_run
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = one_group_at_a_time

Logged = list[tuple[int | None, dict[str, float]]]

SAME = [
    *(f"gradient_norm/{name}" for name in ("bridge", "language_model", "total", "clipped_away")),
    "memory_tokens/norm",
    "memory_tokens/effective_rank",
]
"""Figures that do not depend on how a batch is shared out."""

RATIOS = [
    (f"throughput/{count}_a_second", "throughput/samples_a_second")
    for count in ("conversations", "frames", "text_tokens", "positions")
]


def by_step(logged: Logged, name: str) -> dict[int | None, float]:
    return {step: values[name] for step, values in logged if name in values}


@pytest.mark.slow
def test_two_ranks_log_what_one_logs(folders: PartFolders, tmp_path: Path) -> None:
    strategies = ["ddp", "fsdp2", "zero1", "zero2", "zero3"]
    expected = monitored_run("single_device", folders, tmp_path, 0, 1)
    arguments = [",".join(strategies), *folders, str(tmp_path)]
    run_processes("tests.lightning_modules.monitoring.monitor_with_strategies", arguments, 2)
    for strategy in strategies:
        logged: Any = json.loads((tmp_path / f"{strategy}-0.json").read_text(encoding="utf-8"))
        for name in SAME:
            assert by_step(logged, name) == pytest.approx(by_step(expected, name), rel=2e-3), (strategy, name)
            assert list(by_step(logged, name)) == [1, 3]
        for name, other in RATIOS:
            ratios = [
                {step: value / by_step(run, other)[step] for step, value in by_step(run, name).items()}
                for run in (logged, expected)
            ]
            assert ratios[0] == pytest.approx(ratios[1], rel=1e-3), (strategy, name)
        shares = [by_step(logged, f"step_share/{each}") for each in ("waiting_for_data", "forward", "backward")]
        assert all(0.0 <= share < 1.0 for values in shares for share in values.values())
        assert all(0 < mfu < 1 for mfu in by_step(logged, "throughput/mfu").values())
        mean, most = (by_step(logged, f"memory_gib/resident_{kind}") for kind in ("mean", "max"))
        assert all(most[step] >= mean[step] for step in mean)
        assert bool(by_step(logged, "step_seconds/communication")) == (strategy == "ddp")
