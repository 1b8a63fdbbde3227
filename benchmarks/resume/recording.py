"""Records what a training process trains on, step by step, so that it is known even after a kill."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules.batch import Batch


class StepRecorder(Callback):
    """Appends one JSON line a step to ``rank-R.jsonl``: its number, its loss to the last bit, its conversations.

    Callbacks run before a checkpoint is written, and every rank waits here for the others. So all steps of a checkpoint
    are recorded.

    Args:
        folder: Receives the files; a folder of its own for every attempt.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Record the step that has just ended."""
        step = {
            "step": trainer.global_step,
            "loss": float(outputs["loss"]).hex(),
            "conversations": [f"{question.key}/{question.id}" for question in batch.questions],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank-{trainer.global_rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(step) + "\n")
        trainer.strategy.barrier()
