"""Logs a tiny run under one strategy after another, in one process of a group; see test_monitoring_ranks.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_modules.monitoring import GradientMonitor, MemoryTokenMonitor, ThroughputMonitor, VideoInspection
from tests.fixtures_models import PartFolders, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_with_strategies import make_batches, make_strategy

NUM_STEPS = 4


def monitored_run(
    name: str, folders: PartFolders, folder: Path, rank: int, num_ranks: int
) -> list[tuple[int | None, dict[str, float]]]:
    """Everything that was logged, with the steps."""
    torch.manual_seed(0)
    module = make_unbuilt_module(folders)
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        NUM_STEPS,
        devices=num_ranks,
        strategy=make_strategy(name),
        logger=[logger, TensorBoardLogger(folder, name=name)],
        log_every_n_steps=2,
        gradient_clip_val=0.01,
        use_distributed_sampler=False,  # the batches are shared out already
        val_check_interval=2,
        callbacks=[ThroughputMonitor(peak_flops=1e12), GradientMonitor(), MemoryTokenMonitor(), VideoInspection(1)],
    )
    batches = make_batches(folders, rank, num_ranks, NUM_STEPS)
    trainer.fit(module, make_loader(batches), make_loader(batches[:1]))
    return logger.logged


def main(names: str, encoder: str, language_model: str, folder: str) -> None:
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    for name in names.split(","):
        logged = monitored_run(name, PartFolders(encoder, language_model), Path(folder), rank, num_ranks)
        (Path(folder) / f"{name}-{rank}.json").write_text(json.dumps(logged), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
