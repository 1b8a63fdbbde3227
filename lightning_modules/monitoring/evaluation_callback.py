"""Evaluates the model on a benchmark or on the haystack test while it trains."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.fsdp import FSDPModule

from components.model import VideoLanguageModel
from components.pretrained.folder_writing import frames_of_model
from components.pretrained.frame_settings import FrameSettings
from components.step_evaluation import StepEvaluation
from lightning_modules.interfaces import as_training_module
from lightning_modules.monitoring.throughput import ThroughputMonitor
from lightning_modules.monitoring.video_sinks import find_sinks

_NOT_OF_A_NAME = re.compile(r"[^-/\w.]+")
"""Characters that a logger may refuse in the name of a curve."""


class PeriodicEvaluation(Callback):
    """Runs an evaluation every N optimizer steps, and once after ``validate`` and ``test``; shows values and pictures.

    Values go to every logger, pictures to those that take them. The curves are ``NAME/...``.

    Every rank evaluates the same questions at the same time, so that this works with every strategy, sharded weights
    too. More ranks do not make it faster; choose a small evaluation. It evaluates the current weights, not running
    averages. Training continues exactly as without it.

    Args:
        evaluation: What to evaluate.
        every_n_steps: Optimizer steps between two evaluations in ``fit``; None: none in ``fit``.
        name: Beginning of the curves' names.

    Raises:
        ValueError: ``every_n_steps`` is not positive.
    """

    def __init__(self, evaluation: StepEvaluation, every_n_steps: int | None = 1000, name: str = "evaluation") -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, or null for no evaluation in fit, got {every_n_steps}")
        self.evaluation = evaluation
        self.every_n_steps = every_n_steps
        self.name = name
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run was evaluated at the step of its checkpoint."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate, if it is due."""
        step = trainer.global_step
        if self.every_n_steps is not None and step != self._last_step and step % self.every_n_steps == 0:
            self._last_step = step
            self._evaluate(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, unless the validation is one of a training run."""
        if trainer.state.fn == "validate":
            self._evaluate(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate."""
        self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> None:
        model = as_training_module(module, self).built
        frames = frames_of_model(model, _frames_of_run(trainer, model))
        model.training_facts = model.training_facts._replace(frames=frames)
        with _evaluation_mode(model), torch.no_grad(), trainer.precision_plugin.val_step_context():
            found = self.evaluation(model, trainer.global_step)
        for part in model.modules():
            if isinstance(part, FSDPModule):  # frees what the calls gathered
                part.reshard()
        scalars = {self._curve(name): value for name, value in found.scalars.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
        if trainer.is_global_zero:
            for sink in find_sinks(trainer):
                for name, figure in found.figures.items():
                    sink.add_figure(self._curve(name), figure, trainer.global_step)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.scalars.items())
        rank_zero_info(f"{self.name} after step {trainer.global_step}: {shown}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ThroughputMonitor):
                callback.pause()

    def _curve(self, name: str) -> str:
        return f"{self.name}/{_NOT_OF_A_NAME.sub('_', name).strip('_').replace('_/', '/')}"


def _frames_of_run(trainer: Trainer, model: VideoLanguageModel) -> FrameSettings:
    """How the run's datamodule reads videos; without one, what the model says."""
    data: Any = getattr(trainer, "datamodule", None)
    if data is None:
        return model.training_facts.frames
    pixels, sampling = data.pixels, data.sampling
    return FrameSettings(pixels.size, pixels.fit, sampling.num_frames, sampling.fps, sampling.max_frames)


@contextmanager
def _evaluation_mode(model: VideoLanguageModel) -> Iterator[None]:
    """The model in evaluation mode; afterwards every part is in the mode that it had, frozen ones too.

    Random numbers are as before.
    """
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
