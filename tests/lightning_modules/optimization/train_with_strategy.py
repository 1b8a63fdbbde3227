"""Trains one rank through both stages and three bad steps, under one strategy after another; see test_strategies.py.

Writes what stood before and after every batch as digests of whole weights and of this rank's share of the optimizer's
states, and the weights at the end.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.language.causal import HuggingFaceCausalLM
from components.segmenters.fixed_length import FixedLength
from datamodules.batch import collate
from lightning_modules.optimization import NonFinite, Optimization, TrainingPoint
from lightning_modules.strategies.fsdp2 import Fsdp2
from lightning_modules.strategies.replicated import Ddp
from lightning_modules.strategies.zero import Zero
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import RATES, PartFolders, make_bridge, make_mixed_samples
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.optimization.poison import poison

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ddp": Ddp,
    "fsdp2": Fsdp2,
    "zero1": partial(Zero, 1),
    "zero2": partial(Zero, 2),
    "zero3": partial(Zero, 3),
}
BAD = {1: "loss and gradient", 4: "loss", 6: "gradient"}
START = 3
STEPS = 8


def whole(parameter: Tensor) -> Tensor:
    """A parameter's whole weight, on every rank."""
    if isinstance(parameter, DTensor):
        return parameter.full_tensor()
    if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_full_fp32_param

        full: Tensor = safe_get_full_fp32_param(parameter)
        return full
    return parameter


def digest(tensors: list[Tensor]) -> str:
    own = (value.to_local() if isinstance(value, DTensor) else value for value in tensors)
    return hashlib.sha256(b"".join(value.detach().float().cpu().numpy().tobytes() for value in own)).hexdigest()


class Digests(Callback):
    """Digests by part and of the optimizer's states: before the first batch, and after every one."""

    def __init__(self) -> None:
        self.taken: list[dict[str, str]] = []

    def on_train_start(self, trainer: Any, pl_module: VideoLanguageModule) -> None:
        self._take(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: VideoLanguageModule, *_: Any) -> None:
        self._take(pl_module)

    def _take(self, module: VideoLanguageModule) -> None:
        taken = {}
        for name in ("bridge", "language_model"):
            taken[name] = digest([whole(p) for p in module.built.get_submodule(name).parameters() if p.requires_grad])
        states = module.adamw.state.values()
        taken["states"] = digest([state[key] for state in states for key in sorted(state)])
        taken["averages"] = str(sum("average" in state for state in states))
        self.taken.append(taken)


def make_staged_module(folders: PartFolders) -> VideoLanguageModule:
    """Tiny parts, not built yet: the language model begins late, the bridge has an average."""
    settings = Optimization(
        RATES,
        weight_decay=0.1,
        frozen_until={"language_model": TrainingPoint(step=START)},
        averages={"bridge": 0.9},
        non_finite=NonFinite(stop_after=3),
    )
    return VideoLanguageModule(
        encoder=partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1),
        bridge=make_bridge,
        language_model=partial(HuggingFaceCausalLM, folders.language_model),
        segmenter=FixedLength(2),
        optimization=settings,
    )


def main(strategies: str, encoder: str, language_model: str, out: str, precision: str, accumulate: str) -> None:
    for strategy in strategies.split(","):
        folder = Path(out) / strategy
        folder.mkdir(exist_ok=True)
        train(strategy, PartFolders(encoder, language_model), folder, precision, int(accumulate))


def train(strategy: str, folders: PartFolders, folder: Path, precision: str, accumulate: int) -> None:
    seed_everything(1)
    module = poison(make_staged_module(folders), BAD, rank=1)
    digests, logger = Digests(), RecordingLogger()
    trainer = make_trainer(
        folder,
        STEPS // accumulate,
        devices=2,
        strategy=STRATEGIES[strategy](),
        precision=precision,
        logger=logger,
        callbacks=[digests],
        gradient_clip_val=0.1,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
    )
    samples = make_mixed_samples(folders)
    trainer.fit(
        module, make_loader([collate([samples[(2 * step + trainer.global_rank) % 4]]) for step in range(STEPS)])
    )
    weights = {name: whole(p).detach().float().clone() for name, p in module.named_parameters() if p.requires_grad}
    rank = trainer.global_rank
    save_file(weights, folder / f"weights-{rank}.safetensors")
    logged = {
        name: logger.values(name) for name in ("train/loss", "train/skipped_steps", "learning_rate/language_model")
    }
    (folder / f"digests-{rank}.json").write_text(json.dumps({"taken": digests.taken, "logged": logged}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
