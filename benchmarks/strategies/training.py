"""Trains with one strategy, as one rank: ``torchrun ... -m benchmarks.strategies.training FOLDER STRATEGY``.

A tiny model is trained first, so that memory for imports and other one-time setup is not measured.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import gc
import json
import os
import statistics
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from apps.commands import ROOT
from benchmarks.resident_memory import peak_resident_bytes, reset_peak, resident_bytes
from benchmarks.strategies.tensor_bytes import held_bytes
from benchmarks.strategies.workload import Settings, Sizes, make_batches, make_module, write_parts
from command_errors import run_and_exit

CHECKPOINT = "{}.ckpt"
PHASES = ("building", "training", "saving")
_WARM_UP = Sizes(layers=1, width=64, vocabulary=100, encoder_layers=1, encoder_width=32, steps=2)
# The configs' 200 M elements are for large models; here they would be most of the memory.
_BUCKET_ELEMENTS = 2_000_000


class Measured(NamedTuple):
    """Measurements of one rank."""

    losses: list[float]  # of the global batches
    seconds: float  # a step, median without the first two
    held: dict[str, dict[str, int]]  # see ``held_bytes``
    peaks: dict[str, int]  # growth in bytes since before the model was built, by phase


class Watch(Callback):
    """Measures a run and saves a checkpoint at its end.

    Args:
        checkpoint: Path of the checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.measured = Measured([], 0.0, {}, {})
        self._before = 0
        self._seconds: list[float] = []
        self._began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Measure memory before the model is built."""
        gc.collect()
        device = trainer.strategy.root_device
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
        _reset_peak(device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Model and optimizer are set up."""
        self._end_phase("building", trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._began = _now(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Count tensors, once the optimizer has created its states."""
        if trainer.global_step == 1:
            self.measured = self.measured._replace(
                held=held_bytes(pl_module, getattr(optimizer, "_optimizer", optimizer))
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note time and loss of the step."""
        self._seconds.append(_now(trainer) - self._began)
        self.measured.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._end_phase("training", trainer)
        trainer.save_checkpoint(self.checkpoint)
        self._end_phase("saving", trainer)
        self.measured = self.measured._replace(seconds=statistics.median(self._seconds[2:] or self._seconds))

    def _end_phase(self, phase: str, trainer: Trainer) -> None:
        device = trainer.strategy.root_device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
        self.measured.peaks[phase] = peak - self._before
        _reset_peak(device)


def make_strategy(name: str) -> Strategy:
    """The strategy of ``configs/strategy/NAME.yaml``, with ZeRO's buckets sized for a small model."""
    config = OmegaConf.load(ROOT / "configs" / "strategy" / f"{name}.yaml").trainer.strategy
    options = dict(config.get("init_args", {}))
    if name.startswith("zero"):
        options |= {"reduce_bucket_size": _BUCKET_ELEMENTS, "gather_bucket_size": _BUCKET_ELEMENTS}
    module, _, class_name = config.class_path.rpartition(".")
    strategy: Strategy = getattr(import_module(module), class_name)(**options)
    return strategy


def train(parts: Path, name: str, settings: Settings, checkpoint: Path) -> Measured:
    """Train with a strategy and save.

    Args:
        parts: What ``write_parts`` wrote.
        name: Name of the strategy's config.
        settings: Of the run.
        checkpoint: Where to save.
    """
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    watch = Watch(checkpoint)
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator=settings.device,
        devices=num_ranks,
        strategy=make_strategy(name),
        max_steps=settings.sizes.steps,
        callbacks=[watch],
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=parts,
    )
    batches: Any = make_batches(settings.sizes, rank, num_ranks)
    trainer.fit(make_module(parts), DataLoader(batches, batch_size=None, collate_fn=_as_it_is))
    return watch.measured


def main(folder: Path, name: str) -> None:
    """Train with one strategy; every rank writes ``STRATEGY-RANK.json``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    settings = Settings.read(folder / "settings.json")
    tiny = folder / f"warm-up-{name}-{rank}"
    write_parts(tiny, _WARM_UP)
    videos = settings.sizes.videos
    train(tiny, name, settings._replace(sizes=_WARM_UP._replace(videos=videos)), folder / f"warm-up-{name}.ckpt")
    measured = train(folder, name, settings, folder / CHECKPOINT.format(name))
    (folder / f"{name}-{rank}.json").write_text(json.dumps(measured._asdict()), encoding="utf-8")


def _as_it_is(batch: Any) -> Any:
    return batch


def _now(trainer: Trainer) -> float:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


if __name__ == "__main__":
    run_and_exit(lambda: main(Path(sys.argv[1]), sys.argv[2]))
