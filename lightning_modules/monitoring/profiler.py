"""Records a profile of a few training steps."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.profiler import profile, record_function, schedule, tensorboard_trace_handler


class StepProfiler(Callback):
    """Records what CPU and GPU do in a few training steps, and writes it as a trace for Perfetto and TensorBoard.

    Every rank writes ``profile/rank*.pt.trace.json.gz`` into the run's folder, as soon as the steps are recorded; see
    docs/monitoring.md for how to view it. Batches are counted, also those of gradient accumulation. The recorded steps
    run slower; the others do not.

    Args:
        skip_batches: Batches before recording begins; the first ones allocate memory and choose kernels.
        num_batches: Batches to record, after one batch that is recorded and discarded.
        memory: Also record the memory of every tensor and when it is freed.

    Raises:
        ValueError: A number is too small.
    """

    def __init__(self, skip_batches: int = 5, num_batches: int = 3, memory: bool = False) -> None:
        if skip_batches < 0 or num_batches < 1:
            raise ValueError(
                f"skip_batches must be at least 0 and num_batches at least 1, got {skip_batches} and {num_batches}"
            )
        self.skip_batches = skip_batches
        self.num_batches = num_batches
        self.memory = memory
        self._profile: Any = None
        self._phase: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the profiler, which waits for the steps to record."""
        folder = trainer.log_dir or trainer.default_root_dir  # read on every rank, because it is a collective call
        self._profile = profile(
            schedule=schedule(skip_first=self.skip_batches, wait=0, warmup=1, active=self.num_batches, repeat=1),
            on_trace_ready=tensorboard_trace_handler(
                str(Path(folder) / "profile"), f"rank{trainer.global_rank}", use_gzip=True
            ),
            record_shapes=True,
            profile_memory=self.memory,
        )
        self._profile.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin the next phase."""
        self._enter("forward")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Begin the next phase."""
        self._enter("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the next phase."""
        self._enter("optimizer")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step, and the recording after the last step to record."""
        self._leave()
        if self._profile is not None:
            self._profile.step()
            if batch_idx + 1 >= self.skip_batches + 1 + self.num_batches:
                self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the run ended before all batches were recorded."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording, and write what was recorded."""
        self._stop()

    def _enter(self, phase: str) -> None:
        self._leave()
        if self._profile is not None:
            self._phase = record_function(f"phase: {phase}")
            self._phase.__enter__()

    def _leave(self) -> None:
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
        self._phase = None

    def _stop(self) -> None:
        self._leave()
        if self._profile is not None:
            self._profile.stop()
        self._profile = None
