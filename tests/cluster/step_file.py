"""A callback that writes down what each rank trained on, slowly enough that a run can be stopped in between."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules.batch import Batch


class StepFile(Callback):
    """Appends a line for every batch: step, loss, keys of the samples; one file a rank.

    Args:
        folder: Where to.
        seconds: Pause after each batch.
    """

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder = Path(folder)
        self.seconds = seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = ",".join(question.key for question in batch.questions)
        with (self.folder / f"steps-{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{trainer.global_step} {float(outputs['loss']):.6f} {keys}\n")
            file.flush()
            os.fsync(file.fileno())
        time.sleep(self.seconds)
