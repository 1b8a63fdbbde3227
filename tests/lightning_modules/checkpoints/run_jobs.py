"""Trains, saves and resumes under one strategy after another, in one process of a group; see test_portability.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from components.language.causal import HuggingFaceCausalLM
from lightning_modules.optimization import Optimization
from tests.fixtures_models import PartFolders, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_with_strategies import make_batches, make_strategy
from tests.process_group import run_processes

SAVED_AT = 2
NUM_STEPS = 5


class Job(NamedTuple):
    """A run, from the start or from a checkpoint."""

    strategy: str
    save: str | None = None
    resume: str | None = None
    precision: str = "32-true"
    frozen: bool = False  # the language model
    begin_with: str | None = None  # a checkpoint that gives the weights of a new run
    validate: bool = False  # instead of training


class SavesOnce(Callback):
    """Saves after the step that is resumed from."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == SAVED_AT:
            trainer.save_checkpoint(self.path)


def run_job(job: Job, folders: PartFolders, folder: Path, rank: int, num_ranks: int) -> list[float]:
    torch.manual_seed(0)
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        NUM_STEPS,
        devices=num_ranks,
        strategy=make_strategy(job.strategy),
        logger=logger,
        callbacks=[SavesOnce(job.save)] if job.save else [],
        gradient_clip_val=1.0,
        precision=job.precision,
        use_distributed_sampler=False,
    )
    batches = make_batches(folders, rank, num_ranks, NUM_STEPS)
    if job.resume:  # Lightning counts the batches of an epoch, so it stays as long as it was
        batches = batches[SAVED_AT:] + batches[:SAVED_AT]
    module = make_unbuilt_module(folders, initial_weights=job.begin_with, **(_frozen(folders) if job.frozen else {}))
    if job.validate:
        trainer.validate(module, make_loader(batches[:1]), ckpt_path=job.resume, verbose=False)
        return logger.values("val/loss/0")
    trainer.fit(module, make_loader(batches), ckpt_path=job.resume)
    return logger.values("train/loss")


def _frozen(folders: PartFolders) -> dict[str, Any]:
    frozen = partial(HuggingFaceCausalLM, folders.language_model, freeze=True)
    return {"language_model": frozen, "optimization": Optimization({"bridge": 1e-3})}


def run_jobs(
    jobs: Sequence[Job], folders: PartFolders, folder: Path, num_ranks: int, timeout: float = 280.0
) -> list[list[float]]:
    """Run jobs one after another in a group of processes.

    Returns:
        The losses of each job's steps.
    """
    arguments = [json.dumps(jobs), *folders, str(folder)]
    run_processes("tests.lightning_modules.checkpoints.run_jobs", arguments, num_ranks, timeout)
    results: list[list[float]] = json.loads((folder / "losses.json").read_text())
    return results


def main(jobs: str, encoder: str, language_model: str, folder: str) -> None:
    torch.set_num_threads(1)
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    folders = PartFolders(encoder, language_model)
    losses = [run_job(Job(*job), folders, Path(folder), rank, num_ranks) for job in json.loads(jobs)]
    if rank == 0:
        (Path(folder) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
