"""Trains the recorder with every way to make batches, in one process of a group; see test_resume.py.

Forking the test process instead would copy its threads' locks, and the copy may wait on them for ever.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import sys
from pathlib import Path
from typing import Any, NamedTuple

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


class Way(NamedTuple):
    """A way to make batches, and the shards that it is used with."""

    loading: Loading
    shards: str
    conversations_per_video: int | None = None


BUDGET = Budget(max_frames=24, max_tokens=600, group_size=2)
WAYS = {
    "fixed": Way(Loading(4, num_workers=1), "train-*.tar"),
    "budget": Way(Loading(None, BUDGET, cost=Cost(visual_tokens=2), num_workers=1), "mixed-*.tar", 2),
}


def main(shards: str, tokenizer: str, folder: str, num_processes: str, end: str, last: str) -> None:
    """Train each way in a folder of its own until step ``end``, from the start or from the checkpoint of ``last``."""
    for name, way in WAYS.items():
        own = Path(folder) / name
        own.mkdir(parents=True, exist_ok=True)
        train(way, Path(shards), tokenizer, own, int(num_processes), int(end), int(last))


def train(way: Way, shards: Path, tokenizer: str, folder: Path, num_processes: int, end: int, last: int) -> None:
    data = InstructionDataModule(
        tokenizer,
        train=[Source(str(shards / way.shards))],
        sampling=FrameSampling(num_frames=2),
        pixels=PixelOptions(16),
        order=TrainingOrder(window=16, conversations_per_video=way.conversations_per_video),
        loading=way.loading,
    )
    callbacks = [checkpoints(folder), KeyFile(folder)]
    options = {"devices": num_processes, "strategy": "ddp", "use_distributed_sampler": False}
    resumed = str(folder / f"step={last}.ckpt") if last else None
    trainer(folder, *callbacks, max_steps=end, **options).fit(
        Recorder(reads_length_early=True), datamodule=data, ckpt_path=resumed
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
