"""Logs norm and effective rank of the bridge's memory, and how many segments it admitted."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from components.interfaces import BridgeDiagnostics, SegmentInput, VisualReader
from lightning_modules.interfaces import as_training_module
from lightning_modules.logging_steps import logs_after_this_step
from lightning_modules.monitoring.effective_rank import effective_rank
from lightning_modules.monitoring.rank_logging import of_all_ranks
from lightning_modules.optimization.accumulation import is_accumulating


class MemoryTokenMonitor(Callback):
    """Logs the memory tokens' mean norm and effective rank after the last segment, and the share admitted to memory.

    Means over the videos of the last batch of a logged step, of all ranks. The effective rank is between 1, if all
    tokens are equal, and their number. The share of admitted segments is logged if the bridge's ``diagnostics`` have
    ``admitted``, the other two if they have ``memory``.

    A hook reads what training computes, in the logged steps only; nothing is computed again.
    """

    def __init__(self) -> None:
        self._listening: Any = None
        self._shown = BridgeDiagnostics()  # after the last segment
        self._has_segment: list[Tensor] = []  # [V] bool a segment
        self._num_videos = 0  # 0 if the batch has no video; the bridge then reads an empty one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record outputs of the bridge, if this step is logged.

        Raises:
            TypeError: The LightningModule is another than this project's.
        """
        model = as_training_module(pl_module, self).built
        self._stop()
        self._shown, self._has_segment = BridgeDiagnostics(), []
        self._num_videos = batch.frame_counts.numel()
        if logs_after_this_step(trainer):
            reader = next(iter(model.readers.values()))
            self._listening = reader.register_forward_hook(self._on_segment_read)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Stop recording: activation checkpointing reads the same segments again in the backward pass."""
        self._stop()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log."""
        if not logs_after_this_step(trainer) or is_accumulating(trainer):
            return
        # A collective call: all ranks make it, also those whose batch has no video.
        norms, ranks, videos, admitted, segments = of_all_ranks(trainer, self._sums()).sum(dim=0).tolist()
        if videos:
            pl_module.log_dict({"memory_tokens/norm": norms / videos, "memory_tokens/effective_rank": ranks / videos})
        if segments:
            pl_module.log("memory_tokens/admitted_segments", admitted / segments)
        self._shown, self._has_segment = BridgeDiagnostics(), []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        self._stop()

    def _on_segment_read(self, bridge: nn.Module, inputs: tuple[SegmentInput, Any], state: Any) -> None:
        assert isinstance(bridge, VisualReader)
        self._has_segment.append(inputs[0].frame_mask.any(dim=1))
        shown = bridge.diagnostics(state)
        self._shown = BridgeDiagnostics(*(None if each is None else each.detach() for each in shown))

    @torch.no_grad()
    def _sums(self) -> list[float]:
        """Sums of norm and rank over videos, their number; sum of admitted over segments, their number."""
        if not self._has_segment or not self._num_videos:
            return [0.0] * 5
        has_segment = torch.stack(self._has_segment)  # [S, V]
        norm_sum = rank_sum = 0.0
        num_videos = 0
        memory, admitted = self._shown.memory, self._shown.admitted
        if memory is not None:
            norms = memory.float().norm(dim=-1).mean(dim=-1)  # [V]
            sound = has_segment.any(dim=0) & norms.isfinite() & (norms > 0)
            num_videos = int(sound.sum())
            if num_videos:
                norm_sum = float(norms[sound].sum())
                rank_sum = float(effective_rank(memory[sound]).sum())
        if admitted is None:
            return [norm_sum, rank_sum, num_videos, 0.0, 0.0]
        admitted_sum = float((admitted.float() * has_segment.T).sum())
        return [norm_sum, rank_sum, num_videos, admitted_sum, float(has_segment.sum())]

    def _stop(self) -> None:
        if self._listening is not None:
            self._listening.remove()
        self._listening = None
