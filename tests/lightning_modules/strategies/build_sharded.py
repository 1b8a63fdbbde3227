"""Builds a model of many layers under a strategy and records memory of the process; see test_sharded_building.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import gc
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from components.language.causal import HuggingFaceCausalLM
from components.sharding import Sharding
from tests.fixtures_models import PartFolders, make_unbuilt_module
from tests.fixtures_training import make_loader, make_trainer
from tests.lightning_modules.strategies.train_with_strategies import full_weight, make_batches, make_strategy


def anonymous_bytes() -> int:
    """Memory of this process without memory-mapped files: mapped weights that were only read do not count."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class Watch(Callback):
    """Records the peak of memory during building, and memory afterwards."""

    def __init__(self) -> None:
        self.before = self.most = 0
        self.local_elements = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.before = self.most = anonymous_bytes()

    def look(self) -> None:
        self.most = max(self.most, anonymous_bytes())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look()
        gc.collect()
        self.local_elements = sum(_own_share(p) for p in pl_module.parameters())


def _own_share(parameter: Tensor) -> int:
    local: Any = parameter
    if hasattr(parameter, "ds_tensor"):
        local = parameter.ds_tensor
    elif hasattr(parameter, "to_local"):
        local = parameter.to_local()
    return int(local.numel())


def main(strategy: str, encoder: str, tiny: str, large: str, folder: str) -> None:
    torch.set_num_threads(1)
    build(strategy, encoder, tiny, folder)  # imports and one-time initialisation
    build(strategy, encoder, large, folder)


def build(strategy: str, encoder: str, language_model: str, folder: str) -> None:
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    folders = PartFolders(encoder, language_model)
    torch.manual_seed(0)
    frozen = partial(HuggingFaceCausalLM, language_model, freeze=True, dtype="float32")
    module = make_unbuilt_module(folders, language_model=frozen)
    module.optimization.learning_rates = {"bridge": 1e-3}
    watch = Watch()
    trainer = make_trainer(
        Path(folder),
        1,
        devices=num_ranks,
        strategy=make_strategy(strategy),
        callbacks=[watch],
        use_distributed_sampler=False,
    )
    _watch_each_shard(trainer, watch)
    trainer.fit(module, make_loader(make_batches(folders, rank, num_ranks, 1)))
    weights = {name: full_weight(p) for name, p in module.named_parameters()}
    whole = sum(weight.numel() for weight in weights.values())
    result = {"whole": whole, "local": watch.local_elements, "peak_bytes": watch.most - watch.before}
    (Path(folder) / f"{strategy}-{rank}.json").write_text(json.dumps(result))
    if rank == 0:
        torch.save(weights, Path(folder) / f"{strategy}-weights.pt")


def _watch_each_shard(trainer: Trainer, watch: Watch) -> None:
    """Measure memory after each part is built and before it is sharded, when it is largest."""
    strategy: Any = trainer.strategy
    if isinstance(strategy, Sharding):
        shard = strategy.shard

        def shard_and_look(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
            watch.look()
            shard(model, dtype)
            watch.look()

        strategy.shard = shard_and_look  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
