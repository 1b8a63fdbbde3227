"""Trains in one process of a group in which one rank gets a signal; see test_preemption.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import os
import signal
import sys
from pathlib import Path

from lightning_modules.checkpoints.keeping import KeepCheckpoints
from lightning_modules.preemption import Preempted, Preemption
from lightning_modules.strategies.replicated import Ddp
from tests.fixtures_training import make_trainer
from tests.lightning_modules.test_preemption import Signalled, batches, send


def main(folder: str, signalled_rank: str, batch: str) -> None:
    rank = os.environ["RANK"]
    model = Signalled(send(signal.SIGUSR1) if rank == signalled_rank else send(), int(batch))
    callbacks = [KeepCheckpoints(folder=folder), Preemption()]
    settings = {"enable_checkpointing": True, "callbacks": callbacks, "devices": 2, "strategy": Ddp()}
    trainer = make_trainer(Path(folder), 100, use_distributed_sampler=False, **settings)
    try:
        trainer.fit(model, batches())
    except Preempted as stop:
        Path(folder, f"stopped-{rank}").write_text(f"{stop.code} after step {trainer.global_step}")


if __name__ == "__main__":
    main(*sys.argv[1:])
