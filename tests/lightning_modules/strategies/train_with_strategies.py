"""Trains a tiny model under one strategy after another, in one process of a group; see test_equal_training.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from datamodules.batch import Batch, collate
from lightning_modules.strategies.fsdp2 import Fsdp2
from lightning_modules.strategies.replicated import Ddp, SingleDevice
from lightning_modules.strategies.zero import Zero
from tests.fixtures_models import PartFolders, make_mixed_samples, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer

NUM_STEPS = 6


def make_strategy(name: str) -> Strategy:
    """A strategy by its name, so set that the tiny model's weights are really spread."""
    if name.startswith("zero"):
        return Zero(stage=int(name[4]), persistent_elements=0, offload_optimizer=name.endswith("offload"))  # type: ignore[arg-type]
    return {"single_device": SingleDevice, "ddp": Ddp, "fsdp2": Fsdp2}[name]()


def make_batches(folders: PartFolders, rank: int, num_ranks: int, num_steps: int) -> list[Batch]:
    """The same global batches however many ranks share them; their samples move from rank to rank."""
    samples = make_mixed_samples(folders)
    batches = []
    for step in range(num_steps):
        turned = samples[step % 4 :] + samples[: step % 4]
        batches.append(collate(turned[rank::num_ranks]))
    return batches


def full_weight(parameter: Tensor) -> Tensor:
    """A parameter put together from all ranks' shares; float32 where the strategy keeps it so."""
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        full: Tensor = safe_get_full_fp32_param(parameter)
        return full
    whole: Any = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return whole.detach().clone()  # type: ignore[no-any-return]


def train(name: str, folders: PartFolders, folder: Path, rank: int, num_ranks: int, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    module = make_unbuilt_module(folders, **changes)
    logger = RecordingLogger()
    trainer = make_trainer(
        folder, NUM_STEPS, devices=num_ranks, strategy=make_strategy(name), logger=logger, gradient_clip_val=1.0
    )
    trainer.fit(module, make_loader(make_batches(folders, rank, num_ranks, NUM_STEPS)))
    weights = {key: full_weight(p) for key, p in module.named_parameters() if p.requires_grad}
    return {"losses": logger.values("train/loss"), "weights": weights}


def main(names: str, encoder: str, language_model: str, folder: str, rank: str, num_ranks: str) -> None:
    torch.set_num_threads(1)
    for name in names.split(","):
        result = train(name, PartFolders(encoder, language_model), Path(folder), int(rank), int(num_ranks))
        if rank == "0":
            torch.save(result, Path(folder) / f"{name}.pt")
            print(json.dumps({name: result["losses"]}))


if __name__ == "__main__":
    import os

    main(*sys.argv[1:], os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))
