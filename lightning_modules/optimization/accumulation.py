"""Gradient accumulation: which batches end with an optimizer step, and what a checkpoint between them holds."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the current batch only adds to the gradient, without an optimizer step at its end.

    Correct from the batch's start to the end of its hooks, and so for a checkpoint that a hook writes.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    ready = progress.current.ready
    is_last = progress.is_last_batch or ready >= trainer.num_training_batches
    return ready % trainer.accumulate_grad_batches != 0 and not is_last


class ResumeAtStepStart(Callback):
    """Lets a checkpoint that was written within an optimizer step resume at the beginning of that step.

    Such a checkpoint holds no gradient, so it must not count the batches of the step as trained. The resumed run trains
    on them again, from the same weights, and equals the uninterrupted one. ``KeepCheckpoints`` writes such a checkpoint
    if it has a ``monitor`` and validation happens within a step (``val_check_interval``). The position in the data is
    set back in the same way (``InstructionDataModule.state_dict``).
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Subtract the batches of the unfinished step from the counts."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress  # Lightning types it too narrowly
        begun = progress.current.processed % trainer.accumulate_grad_batches
        if trainer.state.fn != "fit" or not begun or progress.current.processed >= trainer.num_training_batches:
            return
        # The hook that ends a batch, in which Lightning itself saves, comes before it counts the batch as completed and
        # the step as logged: it makes up for that when it goes on. At an epoch's start there is nothing to make up for.
        pending = int(progress.current.processed > begun)
        loops = checkpoint["loops"]["fit_loop"]
        for name in ("total", "current"):
            done = getattr(progress, name).processed - begun
            counts = {"ready": done, "started": done, "processed": done, "completed": done - pending}
            loops["epoch_loop.batch_progress"][name] |= counts
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= pending
