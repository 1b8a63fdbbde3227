"""Trains a tiny model under one strategy after another, in one process of a group; see test_equal_training.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.losses import EverySegmentLoss
from datamodules.batch import Batch, collate
from lightning_modules.optimization.adamw import PartwiseAdamW
from lightning_modules.strategies.fsdp2 import Fsdp2
from lightning_modules.strategies.replicated import Ddp, SingleDevice
from lightning_modules.strategies.zero import Zero
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import PartFolders, make_mixed_samples, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer

NUM_STEPS = 6


def make_strategy(name: str) -> Strategy:
    """A strategy by name, with settings under which the tiny model's weights are sharded."""
    if name.startswith("zero"):
        stage: Any = int(name[4])
        offload = name.endswith("offload")
        return Zero(stage, persistent_elements=0, offload_optimizer=offload, offload_parameters=offload and stage == 3)
    return {"single_device": SingleDevice, "ddp": Ddp, "fsdp2": Fsdp2}[name]()


def make_batches(
    folders: PartFolders, rank: int, num_ranks: int, num_batches: int, batches_in_one: int = 1
) -> list[Batch]:
    """The same global batches however many ranks share them; their samples move from rank to rank.

    Args:
        folders: The tiny parts.
        rank: Whose part.
        num_ranks: How many share them.
        num_batches: How many there are.
        batches_in_one: How many that follow each other are joined.
    """
    samples = make_mixed_samples(folders)
    parts = []
    for number in range(num_batches):
        turned = samples[number % 4 :] + samples[: number % 4]
        # The second of two has answers of another length than the first.
        parts.append(turned[rank::num_ranks] if number % 2 == 0 else turned[:2][rank::num_ranks])
    joined = [parts[start : start + batches_in_one] for start in range(0, num_batches, batches_in_one)]
    return [collate([sample for part in group for sample in part]) for group in joined]


def full_weight(parameter: Tensor) -> Tensor:
    """A parameter gathered from all ranks; float32 if the strategy has a float32 copy."""
    if hasattr(parameter, "ds_id") and not parameter.requires_grad:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        full: Tensor = safe_get_full_fp32_param(parameter)
        return full
    whole: Any = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return whole.detach().clone()  # type: ignore[no-any-return]


def variant(name: str, folders: PartFolders) -> tuple[dict[str, Any], dict[str, Any]]:
    """Changes of the module and of the trainer, by name of the variant."""
    checkpointing = partial(HuggingFaceCausalLM, folders.language_model, gradient_checkpointing=True)
    every_segment = EverySegmentLoss("increasing")
    adapters = partial(HuggingFaceCausalLM, folders.language_model, lora=LoraSettings(rank=2, dropout=0.0))
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": ({}, {}),
        "accumulate": ({}, {"accumulate_grad_batches": 2}),
        "joined": ({}, {}),
        "checkpointing": ({"language_model": checkpointing}, {}),
        "every_segment": ({"loss_schedule": every_segment}, {}),
        "both": ({"language_model": checkpointing, "loss_schedule": every_segment}, {}),
        "lora": ({"language_model": adapters}, {}),
        "bf16": ({}, {"precision": "bf16-mixed"}),
    }
    return changes[name]


class PlainDescent(PartwiseAdamW):
    """Gradient descent: AdamW would hide gradients with a wrong scale."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = None if closure is None else closure()
        self.num_updates += 1
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad, alpha=-100.0 * group["lr"])
        return result


class DescendingModule(VideoLanguageModule):
    """A module that is trained by gradient descent."""

    def configure_optimizers(self) -> PartwiseAdamW:
        optimizer = super().configure_optimizers()
        optimizer.__class__ = PlainDescent
        return optimizer


def train(name: str, folders: PartFolders, folder: Path, rank: int, num_ranks: int) -> dict[str, Any]:
    """Train under ``strategy`` or ``strategy+variant``; losses by step and the trained weights."""
    strategy, _, changed = name.partition("+")
    of_module, of_trainer = variant(changed or "plain", folders)
    torch.manual_seed(0)
    module = make_unbuilt_module(folders, **of_module)
    if changed in ("accumulate", "joined"):
        module.__class__ = DescendingModule
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        NUM_STEPS,
        devices=num_ranks,
        strategy=make_strategy(strategy),
        logger=logger,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        **of_trainer,
    )
    batches_in_one = 2 if changed == "joined" else 1
    num_batches = NUM_STEPS * trainer.accumulate_grad_batches * batches_in_one
    trainer.fit(module, make_loader(make_batches(folders, rank, num_ranks, num_batches, batches_in_one)))
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
    main(*sys.argv[1:], os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))
