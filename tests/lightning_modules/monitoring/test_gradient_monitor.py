from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.monitoring import GradientMonitor
from lightning_modules.monitoring.gradients import gradient_norms
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer


def train(folders: PartFolders, folder: Path, **options: Any) -> RecordingLogger:
    logger = RecordingLogger()
    settings = {"max_steps": 4, "log_every_n_steps": 2, "logger": logger, "callbacks": [GradientMonitor()]} | options
    make_trainer(folder, **settings).fit(make_module(folders), make_loader([make_batch(folders)] * 8))
    return logger


def test_norms_are_logged_part_by_part_and_together(folders: PartFolders, tmp_path: Path) -> None:
    logger = train(folders, tmp_path)
    logged = [(step, values) for step, values in logger.logged if "gradient_norm/total" in values]
    assert [step for step, _ in logged] == [1, 3]
    for _, values in logged:
        norms = {name: value for name, value in values.items() if name.startswith("gradient_norm/")}
        assert set(norms) == {"gradient_norm/bridge", "gradient_norm/language_model", "gradient_norm/total"}
        bridge, language_model = norms["gradient_norm/bridge"], norms["gradient_norm/language_model"]
        assert norms["gradient_norm/total"] == pytest.approx((bridge**2 + language_model**2) ** 0.5)


def test_norm_is_that_of_the_gradients(folders: PartFolders, tmp_path: Path) -> None:
    logger = train(folders, tmp_path, max_steps=1, log_every_n_steps=1)
    module = make_module(folders)
    module.built(make_batch(folders)).loss.backward()
    for name in ("bridge", "language_model"):
        gradients = [p.grad.flatten() for p in module.built.get_submodule(name).parameters() if p.grad is not None]
        assert logger.values(f"gradient_norm/{name}")[0] == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-4)


@pytest.mark.parametrize("limit", [1e-3, 1e9])
def test_share_that_clipping_takes_is_logged(folders: PartFolders, tmp_path: Path, limit: float) -> None:
    logger = train(folders, tmp_path, gradient_clip_val=limit)
    totals, shares = (logger.values(f"gradient_norm/{name}") for name in ("total", "clipped_away"))
    assert shares == pytest.approx([max(0.0, 1.0 - limit / total) for total in totals], abs=1e-6)


def test_accumulated_batches_are_logged_once_a_step(folders: PartFolders, tmp_path: Path) -> None:
    logger = train(folders, tmp_path, accumulate_grad_batches=2)
    assert len(logger.values("gradient_norm/total")) == 2


def test_without_gradients_there_is_no_norm() -> None:
    trainer: Any = SimpleNamespace(world_size=1, model=None)
    parts = {
        "with": [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))],
        "without": [nn.Parameter(torch.ones(1))],
    }
    parts["with"][0].grad = torch.tensor([3.0, 0.0])
    parts["with"][1].grad = torch.tensor([4.0])
    assert gradient_norms(trainer, parts) == {"with": pytest.approx(5.0)}
