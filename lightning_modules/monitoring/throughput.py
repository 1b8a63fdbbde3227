"""Logs how fast training runs, how long its phases take and how much memory it uses."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from components.flops.step import ModelFlops, work_of
from components.interfaces import VideoTextBatch
from components.model_output import ModelOutput
from lightning_modules.interfaces import EvaluatedBatch, as_training_module
from lightning_modules.logging_steps import logging_interval
from lightning_modules.monitoring.clocks import HostClock, clock_of
from lightning_modules.monitoring.device_memory import peak_memory
from lightning_modules.monitoring.peak_flops import peak_flops_of
from lightning_modules.monitoring.rank_logging import of_all_ranks
from lightning_modules.monitoring.step_times import PHASES, Step, StepTimes

_SPEED = "throughput/samples_a_second"
_COUNTS = ("samples", "conversations", "frames", "text_tokens", "positions", "computed_positions", "flops")


class ThroughputMonitor(Callback):
    """Logs samples a second over all ranks, the time of each phase of a step, MFU (model FLOPs utilisation) and memory.

    Values are means since the last log, ``trainer.log_every_n_steps`` optimizer steps ago, without validation and the
    writing of checkpoints. On a GPU the time is measured on its stream, and no step waits for it. docs/monitoring.md
    explains each value.

    Args:
        peak_flops: Peak floating-point operations a second of one device, for devices that are not in the table of
            ``peak_flops``; without it MFU is not logged on these and on CPUs.

    Raises:
        ValueError: ``peak_flops`` is not positive.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and peak_flops <= 0:
            raise ValueError(f"peak_flops must be positive, got {peak_flops}; leave it out where it is not known")
        self.peak_flops = peak_flops
        self._peak: float | None = None
        self._flops: ModelFlops | None = None
        self._times = StepTimes(HostClock())
        self._logged_step = 0
        self._listening: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring.

        Raises:
            TypeError: The LightningModule is another than this project's.
        """
        model = as_training_module(pl_module, self).built
        device = trainer.strategy.root_device
        self._times = StepTimes(clock_of(device))
        self._logged_step = trainer.global_step
        self._listening = model.register_forward_hook(self._on_forward)
        self._peak = self.peak_flops or peak_flops_of(device, str(trainer.precision))
        self._flops = None if self._peak is None else ModelFlops(model)
        if self._peak is None and device.type != "cpu":
            rank_zero_info(
                f"MFU is not logged: the peak of this device ({device.type}) in precision {trainer.precision} is not "
                "known. Set ThroughputMonitor's peak_flops to the operations a second that it does at most"
            )
        peak_memory(device)  # resets the peak: memory before training does not count

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch has been loaded."""
        self._times.begin()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """The forward pass is over."""
        self._times.end_phase()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The backward pass is over."""
        self._times.end_phase()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: EvaluatedBatch, batch_idx: int
    ) -> None:
        """Count the batch; log if it is due."""
        samples = len({question.key for question in batch.questions})
        self._times.end((samples, len(batch.questions), len(batch.frames)))
        every, step = logging_interval(trainer), trainer.global_step
        if every and step % every == 0 and step != self._logged_step:
            self._logged_step = step
            self._log(trainer, pl_module)
            self._times.skip()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not count validation as waiting for data."""
        self.pause()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Do not count the writing of a checkpoint as waiting for data."""
        self.pause()

    def pause(self) -> None:
        """Do not count what another callback has done since the last batch as waiting for data."""
        self._times.pause()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop measuring."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop measuring."""
        self._stop()

    def _on_forward(
        self, _module: nn.Module, inputs: tuple[VideoTextBatch, float, frozenset[str]], output: ModelOutput
    ) -> None:
        step = self._times.running
        if step is not None:
            batch, _, left_out = inputs
            step.work = work_of(batch, output, left_out)
            step.positions, step.computed_positions = output.num_positions, output.num_computed_positions

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        steps = self._times.take()
        memory = peak_memory(trainer.strategy.root_device)
        communication = _communication(trainer)
        own = [*self._sums(steps), *communication.values(), *memory.values()]
        ranks = of_all_ranks(trainer, own)
        world, num_sums = len(ranks), len(_COUNTS) + len(PHASES) + 1
        sums = ranks[:, :num_sums].sum(dim=0).tolist()
        counts = dict(zip(_COUNTS, sums, strict=False))
        phases = dict(zip(PHASES, sums[len(_COUNTS) :], strict=False))
        if sum(phases.values()) > 0:  # else the device has finished no step yet
            values = self._rates(counts, sum(phases.values()) / world, world)
            values |= _split(phases, sums[-1] / trainer.accumulate_grad_batches)
            module.log(_SPEED, values.pop(_SPEED), prog_bar=True)
            module.log_dict(values)
        means, most = ranks.mean(dim=0).tolist()[num_sums:], ranks.amax(dim=0).tolist()[num_sums:]
        for name, mean in zip(communication, means, strict=False):
            if not math.isnan(mean):
                module.log(f"step_seconds/{name}", mean)
        first = len(communication)
        for kind, mean, largest in zip(memory, means[first:], most[first:], strict=True):
            module.log_dict({f"memory_gib/{kind}_mean": mean, f"memory_gib/{kind}_max": largest})

    def _sums(self, steps: list[Step]) -> list[float]:
        """Sums of this rank: ``_COUNTS``, seconds of ``PHASES``, number of batches."""
        sizes = [sum(step.sizes[index] for step in steps) for index in range(3)]
        text_tokens = sum(int(step.work.text_tokens.sum()) for step in steps if step.work is not None)
        reported = [step for step in steps if step.positions is not None]
        positions = sum(int(step.positions) for step in reported if step.positions is not None)
        computed = sum(step.computed_positions for step in reported)
        seconds = [step.seconds(self._times.clock) for step in steps]
        phases = [sum(each[index] for each in seconds) for index in range(len(PHASES))]
        return [*sizes, text_tokens, positions, computed, self._operations(steps), *phases, len(steps)]

    def _operations(self, steps: list[Step]) -> float:
        """Floating-point operations that the model needed; NaN if they cannot be counted."""
        if self._flops is None:
            return math.nan
        try:
            return sum(self._flops.of(step.work).total for step in steps if step.work is not None)
        except Exception as error:  # a part may be any class, and a missing curve must not stop a run
            self._flops = None
            rank_zero_warn(f"MFU is not logged: the operations of this model cannot be counted ({error!r})")
            return math.nan

    def _rates(self, counts: dict[str, float], seconds: float, world: int) -> dict[str, float]:
        """Rates over all ranks."""
        values = {f"throughput/{name}_a_second": counts[name] / seconds for name in _COUNTS[:4]}
        if counts["computed_positions"]:
            values["throughput/positions_a_second"] = counts["positions"] / seconds
            values["throughput/padding"] = 1.0 - counts["positions"] / counts["computed_positions"]
        if self._peak is not None and not math.isnan(counts["flops"]):
            achieved = counts["flops"] / seconds / world
            values["throughput/model_teraflops_a_device"] = achieved / 1e12
            values["throughput/mfu"] = achieved / self._peak
        return values

    def _stop(self) -> None:
        if self._listening is not None:
            self._listening.remove()
        self._listening = self._flops = None


def _split(phases: dict[str, float], num_steps: float) -> dict[str, float]:
    """Seconds of an optimizer step and shares of them, by phase; ``num_steps`` is summed over the ranks."""
    total = sum(phases.values())
    values = {f"step_seconds/{phase}": seconds / num_steps for phase, seconds in phases.items()}
    values["step_seconds/total"] = total / num_steps
    return values | {f"step_share/{phase}": seconds / total for phase, seconds in phases.items()}


def _communication(trainer: Trainer) -> dict[str, float]:
    """Seconds of gradient communication in the last backward pass that DDP measured, and those not hidden by computing.

    DDP measures its first ten steps and every hundredth. Other strategies do not measure it.
    """
    model = trainer.strategy.model
    if not isinstance(model, DistributedDataParallel):
        return {}
    measured: dict[str, Any] = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    total = measured.get("backward_comm_time", math.nan) / 1e9
    hidden = measured.get("backward_compute_comm_overlap_time", math.nan) / 1e9
    return {"communication": total, "communication_not_hidden": total - hidden}
