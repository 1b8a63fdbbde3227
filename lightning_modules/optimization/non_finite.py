"""Skips optimizer steps whose loss or gradient is not finite, on all ranks."""

import logging
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from components.sharding import local_part
from lightning_modules.interfaces import EvaluatedBatch, SkippingOptimizer, as_training_module
from lightning_modules.optimization.accumulation import is_accumulating
from lightning_modules.optimization.bad_samples import write_bad_samples
from lightning_modules.optimization.settings import NonFinite

_log = logging.getLogger(__name__)


class SeenBatch(NamedTuple):
    """A batch of the current optimizer step; with gradient accumulation there are several."""

    keys: list[str]
    loss: Tensor  # scalar, its share of the step's loss, on the device
    batch: EvaluatedBatch | None  # None unless it may be written to disk


class NonFiniteSteps(Callback):
    """Skips an optimizer step on all ranks when a loss or gradient on any rank is NaN or infinite.

    Weights, moments and averages do not change. Backward passes still run, so that no rank waits for the collective
    call of another; only the optimizer does nothing. The step counts: learning rates and data continue.

    The ranks agree by one reduction of two numbers for each optimizer step. The numbers are read from the device once,
    before the optimizer begins. DeepSpeed checks its gradients itself and skips the step before it calls the optimizer;
    the loss is checked here. In both cases the optimizer's ``num_updates`` does not change.

    A gradient whose norm is too large for float32 counts as infinite. Steps that the loss scaler of precision 16-mixed
    skips count too, so allow a few in a row there.

    Logs ``train/skipped_steps``, the number since the start of the run, over all restarts.

    Args:
        settings: When to stop, and where samples are written.
    """

    def __init__(self, settings: NonFinite) -> None:
        self.settings = settings
        self.num_skipped = 0
        self.num_in_a_row = 0
        self._batch: EvaluatedBatch | None = None
        self._seen: list[SeenBatch] = []
        self._num_updates = 0
        self._loss_was_bad = False  # on any rank

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"num_skipped": self.num_skipped, "num_in_a_row": self.num_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.num_skipped, self.num_in_a_row = state_dict["num_skipped"], state_dict["num_in_a_row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no batch seen."""
        self._seen = []
        self._num_updates = as_training_module(pl_module, self).adamw.num_updates

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batch until its loss is known."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the batch's loss, without waiting for it."""
        assert self._batch is not None  # its start came before
        keys = sorted({question.key for question in self._batch.questions})
        stored = self._batch if self.settings.dump is not None else None
        self._seen.append(SeenBatch(keys, loss.detach(), stored))
        self._batch = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Agree with the other ranks on whether the step is taken."""
        if is_accumulating(trainer):  # DeepSpeed has it called for every batch
            return
        adamw = as_training_module(pl_module, self).adamw
        losses = torch.stack([seen.loss.float() for seen in self._seen])
        gradients = [p.grad for group in adamw.param_groups for p in group["params"] if p.grad is not None]
        is_bad = [~losses.isfinite().all(), ~_norm_of_shards(gradients).to(losses.device).isfinite()]
        agreed: Any = trainer.strategy.reduce(torch.stack(is_bad).float(), reduce_op="max")
        self._loss_was_bad, gradient_was_bad = map(bool, agreed.tolist())
        adamw.skips = self._loss_was_bad or gradient_was_bad

    def count(self, trainer: Trainer, adamw: SkippingOptimizer) -> None:
        """Count the step after the optimizer has run and before a checkpoint may be saved."""
        if is_accumulating(trainer):
            return
        was_skipped = adamw.num_updates == self._num_updates
        self._num_updates = adamw.num_updates
        if was_skipped:
            self.num_skipped += 1
            self.num_in_a_row += 1
            self._tell(trainer)
        else:
            self.num_in_a_row = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the count.

        Raises:
            FloatingPointError: Too many steps in a row were left out.
        """
        if is_accumulating(trainer):
            return
        pl_module.log("train/skipped_steps", float(self.num_skipped), batch_size=1)
        if self.num_in_a_row >= self.settings.stop_after:
            raise FloatingPointError(self._reason_to_stop(trainer))
        self._seen = []

    def _tell(self, trainer: Trainer) -> None:
        """Warn of this rank's batches in the skipped step, and write their samples."""
        step = trainer.global_step  # not counted yet
        for number, seen in enumerate(self._seen):
            # If all losses were finite, a gradient was not, and it is unknown of which batch.
            if self._loss_was_bad and bool(seen.loss.isfinite()):
                continue
            _log.warning("step %d is skipped: loss %s, samples %s", step, float(seen.loss), seen.keys)
            if self.settings.dump is not None and seen.batch is not None:
                name = f"step-{step:08d}-rank-{trainer.global_rank}-batch-{number}"
                dataset = getattr(trainer.train_dataloader, "dataset", None)
                write_bad_samples(self.settings.dump, name, seen.batch, float(seen.loss), dataset)

    def _reason_to_stop(self, trainer: Trainer) -> str:
        own = [(float(seen.loss), seen.keys) for seen in self._seen]
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        batches = [
            f"rank {rank}, loss {loss:g}: {keys}" for rank, batches in enumerate(ranks) for loss, keys in batches
        ]
        what = "the loss" if self._loss_was_bad else "the loss was finite, the gradient"
        steps = "step was" if self.num_in_a_row == 1 else "steps in a row were"
        return (
            f"{self.num_in_a_row} {steps} skipped, the last one step {trainer.global_step - 1}, where {what} was not "
            f"finite. Samples of that step: {'; '.join(batches)}. Look at these samples "
            "(model.optimization.non_finite.dump has them written), lower the learning rate, or go on from an earlier "
            "checkpoint; model.optimization.non_finite.stop_after sets how many steps in a row may be skipped"
        )


def _norm_of_shards(gradients: list[Tensor]) -> Tensor:
    """Norm of this rank's gradients, which shows whether they are finite."""
    return nn.utils.get_total_norm([local_part(gradient) for gradient in gradients])
