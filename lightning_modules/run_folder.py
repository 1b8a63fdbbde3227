"""One folder for all that a run writes, in which the same command goes on where it was stopped."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

LOGGERS = ("TensorBoardLogger", "CSVLogger")


def write_into(trainer: Any, folder: str) -> None:
    """Have everything written into a folder: logs, config and, in ``checkpoints/``, what the run goes on from.

    Args:
        trainer: The trainer's settings as parsed; changed in place.
        folder: The run's folder.

    Raises:
        ValueError: The first logger, which decides where checkpoints lie, is not one whose folder can be set.
    """
    trainer.default_root_dir = folder
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for index, logger in enumerate(loggers):
        name = getattr(logger, "class_path", repr(logger)).split(".")[-1]
        if name in LOGGERS:
            logger.init_args.save_dir, logger.init_args.name, logger.init_args.version = folder, "", ""
        elif index == 0 and logger is not False:
            raise ValueError(
                f"--run_folder sets where the logger writes, which is known of {' and '.join(LOGGERS)}; the first of "
                f"trainer.logger is {name}. Put one of those first, or set trainer.logger: false"
            )


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Find the checkpoint of the latest optimizer step.

    Args:
        folder: The run's folder.

    Returns:
        The checkpoint, a file or a folder; None if there is none. Those that cannot be read are named in a warning.

    Raises:
        RuntimeError: There are checkpoints, but none that can be read: starting from scratch would write over them.
    """
    found: dict[Path, tuple[int, int]] = {}
    broken = []
    for path in sorted(Path(folder, "checkpoints").glob("*.ckpt")):
        if path.name.startswith("."):
            continue
        state = path / "state.pt" if path.is_dir() else path
        try:
            step = torch.load(state, map_location="cpu", mmap=True, weights_only=True)["global_step"]
            found[path] = (int(step), state.stat().st_mtime_ns)
        except Exception as error:  # whatever half a file does to the reader
            broken.append(f"{path} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")
    if broken and not found:
        raise RuntimeError(
            f"none of the checkpoints in {folder} can be read: {'; '.join(broken)}. Remove them to start from scratch, "
            "or choose another --run_folder"
        )
    if broken:
        warnings.warn(f"passing over checkpoints that cannot be read: {'; '.join(broken)}", stacklevel=2)
    return max(found, key=lambda path: found[path], default=None)


class SameCheckpoint(Callback):
    """Refuses to go on where ranks found different checkpoints: a shared disk may show a new one late on some nodes.

    Args:
        checkpoint: What this rank found.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = str(checkpoint)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare with the first rank.

        Raises:
            RuntimeError: They differ, and would train different models on different samples.
        """
        first = trainer.strategy.broadcast(self.checkpoint)
        if first != self.checkpoint:
            raise RuntimeError(
                f"rank {trainer.global_rank} on {os.uname().nodename} would go on from {self.checkpoint}, the first "
                f"rank from {first}: the disk does not show the same files everywhere. Start the run again"
            )
