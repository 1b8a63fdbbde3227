"""Logs norm and effective rank of the readers' memories, and how many segments they admitted."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from components.interfaces import BridgeDiagnostics, SegmentInput, VisualReader
from components.model import VideoLanguageModel
from lightning_modules.interfaces import as_training_module
from lightning_modules.logging_steps import logs_after_this_step
from lightning_modules.monitoring.effective_rank import effective_rank
from lightning_modules.monitoring.rank_logging import of_all_ranks
from lightning_modules.optimization.accumulation import is_accumulating


class MemoryTokenMonitor(Callback):
    """Logs the memory tokens' mean norm and effective rank after the last segment, and the share admitted to memory.

    Means over the videos of the last batch of a logged step, of all ranks. The effective rank is between 1, if all
    tokens are equal, and their number. The share of admitted segments is logged of readers whose ``diagnostics`` have
    ``admitted``, the other two of those that have ``memory``. The curves of a model's only reader are
    ``memory_tokens/*``, those of several readers ``memory_tokens/NAME/*``.

    A hook reads what training computes, in the logged steps only; nothing is computed again.
    """

    def __init__(self) -> None:
        self._records: dict[str, _ReaderRecord] = {}  # by the beginning of the curves' names
        self._num_videos = 0  # 0 if the batch has no video; the readers then read an empty one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record outputs of the readers, if this step is logged.

        Raises:
            TypeError: The LightningModule is another than this project's.
        """
        model = as_training_module(pl_module, self).built
        self._stop()
        self._records = {}
        self._num_videos = batch.frame_counts.numel()
        if logs_after_this_step(trainer):
            self._records = {name: _ReaderRecord(reader) for name, reader in _named_curves(model).items()}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Stop recording: activation checkpointing reads the same segments again in the backward pass."""
        self._stop()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log."""
        if not logs_after_this_step(trainer) or is_accumulating(trainer):
            return
        own = [value for record in self._records.values() for value in record.sums(self._num_videos)]
        # A collective call: all ranks make it, also those whose batch has no video.
        of_readers = of_all_ranks(trainer, own).sum(dim=0).view(len(self._records), -1).tolist()
        for name, (norms, ranks, videos, admitted, segments) in zip(self._records, of_readers, strict=True):
            if videos:
                pl_module.log_dict({f"{name}/norm": norms / videos, f"{name}/effective_rank": ranks / videos})
            if segments:
                pl_module.log(f"{name}/admitted_segments", admitted / segments)
        self._records = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        self._stop()

    def _stop(self) -> None:
        for record in self._records.values():
            record.stop()


class _ReaderRecord:
    """What a reader shows after its last segment; it is recorded until ``stop``."""

    def __init__(self, reader: VisualReader[Any]) -> None:
        self._shown = BridgeDiagnostics()
        self._has_segment: list[Tensor] = []  # [V] bool a segment
        self._listening = reader.register_forward_hook(self._on_segment_read)

    def stop(self) -> None:
        """Stop recording."""
        self._listening.remove()

    @torch.no_grad()
    def sums(self, num_videos: int) -> list[float]:
        """Sums of norm and rank over videos, their number; sum of admitted over segments, their number."""
        if not self._has_segment or not num_videos:
            return [0.0] * 5
        has_segment = torch.stack(self._has_segment)  # [S, V]
        norm_sum = rank_sum = 0.0
        num_sound = 0
        memory, admitted = self._shown.memory, self._shown.admitted
        if memory is not None:
            norms = memory.float().norm(dim=-1).mean(dim=-1)  # [V]
            sound = has_segment.any(dim=0) & norms.isfinite() & (norms > 0)
            num_sound = int(sound.sum())
            if num_sound:
                norm_sum = float(norms[sound].sum())
                rank_sum = float(effective_rank(memory[sound]).sum())
        if admitted is None:
            return [norm_sum, rank_sum, num_sound, 0.0, 0.0]
        admitted_sum = float((admitted.float() * has_segment.T).sum())
        return [norm_sum, rank_sum, num_sound, admitted_sum, float(has_segment.sum())]

    def _on_segment_read(self, reader: nn.Module, inputs: tuple[SegmentInput, Any], state: Any) -> None:
        assert isinstance(reader, VisualReader)
        self._has_segment.append(inputs[0].frame_mask.any(dim=1))
        shown = reader.diagnostics(state)
        self._shown = BridgeDiagnostics(*(None if each is None else each.detach() for each in shown))


def _named_curves(model: VideoLanguageModel) -> dict[str, VisualReader[Any]]:
    """The readers by the beginning of the names of their curves."""
    of_one_reader = {"bridge": "memory_tokens"}  # the short form of a config
    return {of_one_reader.get(part, f"memory_tokens/{part}"): reader for part, reader in model.reader_parts.items()}
