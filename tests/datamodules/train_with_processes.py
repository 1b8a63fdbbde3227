"""Trains the recorder in one process of a group, as a launcher would start it; see test_resume.py.

Forking the test process instead would copy its threads' locks, and the copy may wait on them for ever.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules.batch import Batch
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.transforms import PixelOptions
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import Cost
from datamodules.order.training_order import TrainingOrder
from tests.datamodules.recorder import Recorder, checkpoints, trainer


class KeyFile(Callback):
    """Writes down which samples this process trained on at which step, one file a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        with (self.folder / f"keys-{trainer.global_rank}.txt").open("a") as file:
            file.writelines(f"{trainer.global_step} {question.key}/{question.id}\n" for question in batch.questions)


def main(shards: str, tokenizer: str, folder: str, num_processes: str, end: str, resume: str, way: str) -> None:
    budget = Budget(max_frames=24, max_tokens=600, group_size=2)
    loadings = {
        "fixed": Loading(4, num_workers=1),
        "budget": Loading(None, budget, cost=Cost(visual_tokens=2), num_workers=1),
    }
    data = InstructionDataModule(
        tokenizer,
        train=[Source(shards)],
        sampling=FrameSampling(num_frames=2),
        pixels=PixelOptions(16),
        order=TrainingOrder(window=16, conversations_per_video=2 if way == "budget" else None),
        loading=loadings[way],
    )
    callbacks = [checkpoints(Path(folder)), KeyFile(Path(folder))]
    options = {"devices": int(num_processes), "strategy": "ddp", "use_distributed_sampler": False}
    trainer(Path(folder), *callbacks, max_steps=int(end), **options).fit(
        Recorder(reads_length_early=True), datamodule=data, ckpt_path=resume or None
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
