"""Prints a summary when a training run begins and when it ends, and the scores of an evaluation."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_modules.checkpoints.keeping import BEST, FINAL, LAST, KeepCheckpoints
from lightning_modules.monitoring.tracker import Tracker
from lightning_modules.run.run_folder import log_folder


class RunSummary(Callback):
    """Prints the parts that train and the data; at the end the scores and the command that evaluates the run."""

    def __init__(self) -> None:
        self._has_trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary of the beginning."""
        self._has_trained = True
        lines = [*_length(trainer), *_parts(pl_module), f"folder: {log_folder(trainer)}"]
        if trainer.loggers:
            lines.append(f"curves: tensorboard --logdir {shlex.quote(str(log_folder(trainer)))}")
        trackers = [logger for logger in trainer.loggers if isinstance(logger, Tracker)]
        lines += [f"{tracker.title}: {where}" for tracker in trackers if (where := tracker.where())]
        rank_zero_info("\n".join(["This run", *(f"  {line}" for line in lines)]))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary of the end, or that nothing was trained."""
        if not self._has_trained:
            rank_zero_info(
                f"Nothing was trained: the run is at its end (step {trainer.global_step} of trainer.max_steps "
                f"{trainer.max_steps}). To train for longer, raise trainer.max_steps"
            )
            return
        folder = _checkpoint_folder(trainer)
        lines = [*_scores(trainer)]
        if folder is not None:
            found = [name for name in (FINAL, BEST, LAST) if (folder / name).exists()]
            lines.append(f"checkpoints: {folder} ({', '.join(found)})")
        text = "\n".join([f"Finished after step {trainer.global_step}", *(f"  {line}" for line in lines)])
        rank_zero_info(text)
        if folder is not None and (folder / FINAL).exists():
            rank_zero_info(f"Evaluate it:\n  {evaluation_command(trainer, folder / FINAL)}")


class EvaluationSummary(Callback):
    """Prints the scores of ``validate`` and ``test``, one a line. Lightning's table cuts their names short."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the scores; the progress bar has ended by now."""
        lines = [f"  {name}: {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items())]
        rank_zero_info("\n".join(["Scores", *lines]))


def evaluation_command(trainer: Trainer, checkpoint: Path) -> str:
    """The command that evaluates a checkpoint on the shards that the run itself validates on.

    Args:
        trainer: The trainer of the run.
        checkpoint: The checkpoint to evaluate.

    Returns:
        One line for a shell, with the word ``SHARDS`` if the run names none.
    """
    sources: Any = getattr(getattr(trainer, "datamodule", None), "evaluation_sources", {})
    sets: dict[str, Any] = next((sources[kind] for kind in ("validation", "test", "predict") if sources.get(kind)), {})
    shards = [name for each in sets.values() for name in ([each] if isinstance(each, str) else each)]
    data = " ".join(map(shlex.quote, dict.fromkeys(shards))) or "SHARDS"
    out = shlex.quote(str(checkpoint.parent.parent / "evaluation"))
    return f"python evaluate.py --checkpoint {shlex.quote(str(checkpoint))} --data {data} --out {out}"


def _length(trainer: Trainer) -> Iterator[str]:
    """Samples, passes and batches, if the datamodule has them."""
    data: Any = getattr(trainer, "datamodule", None)
    loader: Any = trainer.train_dataloader
    known = hasattr(getattr(loader, "dataset", None), "__len__")
    samples = f"{len(loader.dataset):,} sample{'s' * (len(loader.dataset) != 1)}" if known else "samples"
    batches_a_pass = getattr(data, "batches_per_pass", 0)
    steps = f"{trainer.max_steps:,} steps" if trainer.max_steps > 0 else "steps without end"
    passes = ""
    if batches_a_pass and trainer.max_steps > 0:
        passes = f" = {trainer.max_steps * trainer.accumulate_grad_batches / batches_a_pass:.3g} passes"
    begun = f", {trainer.global_step:,} of them done" if trainer.global_step else ""
    yield f"data: {samples}, {steps}{passes}{begun}"
    loading: Any = getattr(data, "loading", None)
    if loading is not None:
        size = f"{loading.batch_size} samples" if loading.batch_size else f"what the budget holds ({loading.budget})"
        ranks = f", over {trainer.world_size} ranks" if trainer.world_size > 1 else ""
        accumulated = f" x {trainer.accumulate_grad_batches} batches" if trainer.accumulate_grad_batches > 1 else ""
        yield f"step: {size} a batch{accumulated}{ranks}, {trainer.precision}, {trainer.strategy.root_device.type}"


def _parts(module: LightningModule) -> Iterator[str]:
    model: Any = getattr(module, "model", None)
    for name, part in model.named_children() if isinstance(model, nn.Module) else ():
        trained = sum(_size(p) for p in part.parameters() if p.requires_grad)
        frozen = sum(_size(p) for p in part.parameters() if not p.requires_grad)
        if trained or frozen:
            yield f"{name}: {_short(trained)} parameters train, {_short(frozen)} are frozen"


def _size(parameter: Any) -> int:
    """Elements of a complete parameter; with ZeRO-3 the parameter is empty if another rank has it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _scores(trainer: Trainer) -> Iterator[str]:
    values = trainer.callback_metrics
    for name in sorted(
        name
        for name in values
        if name == "train/loss" or name.startswith(("val/accuracy", "val/loss", "val/skipped_samples"))
    ):
        if "_by_" not in name:
            yield f"{name}: {float(values[name]):.4g}"


def _checkpoint_folder(trainer: Trainer) -> Path | None:
    keepers = [each for each in trainer.checkpoint_callbacks if isinstance(each, KeepCheckpoints) and each.folder]
    return Path(str(keepers[0].folder)) if keepers else None
