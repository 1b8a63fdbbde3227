"""A small module, and trainers that save and resume it. Plain functions; no fixture, no state."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from lightning_modules.checkpoints.keeping import KeepCheckpoints
from lightning_modules.strategies.replicated import SingleDevice

FIXED_SEED = 17


class SmallModule(LightningModule):
    """Three parts: one that trains, one that is frozen, one that has a buffer."""

    def __init__(self, *, frozen: tuple[str, ...] = ("fixed",), width: int = 4, deeper: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():  # always the same weights, as if loaded from a file
            torch.manual_seed(FIXED_SEED)
            fixed = nn.Linear(width, width)
        self.model = nn.ModuleDict({"fixed": fixed, "moving": nn.Linear(width, 1)})
        if deeper:
            self.model["more"] = nn.Linear(width, width)
        self.model.register_buffer("seen", torch.zeros(()))
        self.model.register_buffer("scratch", torch.zeros(3), persistent=False)
        for name in frozen:
            self.model[name].requires_grad_(False)
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        self.model.seen += 1
        loss = (self.model["moving"](self.model["fixed"](batch)) - 1.0).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/score", SCORES.get(self.global_step, 0.0))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 3, 0.5), "interval": "step"}}


SCORES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7}


def batches(first: int = 0) -> DataLoader[Tensor]:
    """Eight batches, rotated to start with ``first``. Always eight, because Lightning counts batches of an epoch."""
    values = list(torch.rand(8, 5, 4, generator=torch.Generator().manual_seed(1)))
    return DataLoader(values[first:] + values[:first], batch_size=None)  # type: ignore[arg-type]


def make_trainer(folder: Path, max_steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", strategy=SingleDevice(), logger=False, max_steps=max_steps,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, KeepCheckpoints) for callback in callbacks), **options,
    )  # fmt: skip


def train_and_save(path: Path, module: LightningModule, num_steps: int = 2) -> Trainer:
    """Train from the start and save at the end."""
    trainer = make_trainer(path.parent, num_steps)
    trainer.fit(module, batches())
    trainer.save_checkpoint(path)
    return trainer


def make_module(seed: int = 0, **options: Any) -> SmallModule:
    torch.manual_seed(seed)
    return SmallModule(**options)
