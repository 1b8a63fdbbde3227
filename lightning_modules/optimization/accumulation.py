"""Gradient accumulation: which batches end with an optimizer step."""

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the batch at hand only adds to the gradient: no optimizer step belongs to it.

    Holds from the batch's start to the end of its hooks, so for a checkpoint too that is written there.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    ready = progress.current.ready
    is_last = progress.is_last_batch or ready >= trainer.num_training_batches
    return ready % trainer.accumulate_grad_batches != 0 and not is_last


class PartialGradientWarning(Callback):
    """Warns of a checkpoint that is written between the batches of one optimizer step.

    The gradient of the batches so far is not in it, so a run that goes on from it differs from the uninterrupted one
    in that step. ``KeepCheckpoints`` never writes there by ``every_n_steps``; where it has a ``monitor``, a validation
    in the middle of a step (``val_check_interval``) may make it, and so may own calls.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Warn where it is so."""
        if trainer.training and is_accumulating(trainer):
            ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            warnings.warn(
                f"the checkpoint after batch {ready} lies in the middle of an optimizer step of "
                f"{trainer.accumulate_grad_batches} batches. The gradient so far is not in it: a run that goes on from "
                "it takes that step on fewer batches. Write checkpoints by checkpoint.every_n_steps, and choose "
                "val_check_interval as a multiple of accumulate_grad_batches",
                stacklevel=2,
            )
