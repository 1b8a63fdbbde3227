"""The folder of a run: logs, config and checkpoints are in it, and the same command resumes from it."""

import itertools
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback

from lightning_modules.run.run_lock import FolderInUseError, RunLock

LOGGERS = ("TensorBoardLogger", "CSVLogger")


def write_into(trainer: Any, folder: str) -> None:
    """Set a folder for all that a run writes: logs, config and, in ``checkpoints/``, its checkpoints.

    Args:
        trainer: The trainer's settings as parsed; changed in place.
        folder: The run's folder.

    Raises:
        ValueError: The first logger, in whose folder checkpoints are written, is not one whose folder can be set.
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


def log_folder(trainer: Trainer) -> Path:
    """The run's folder: that of its first logger, as for all that Lightning writes."""
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    version = trainer.loggers[0].version
    return folder_of_runs(trainer) / (version if isinstance(version, str) else f"version_{version}")


def folder_of_runs(trainer: Trainer) -> Path:
    """The folder that holds the runs of one name."""
    if not trainer.loggers:
        return Path(trainer.default_root_dir)
    logger = trainer.loggers[0]
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name))


def write_beside_runs(trainer: Any, command: str) -> None:
    """Set a new folder for an evaluation, next to the training runs of the same name.

    Args:
        trainer: The trainer's settings as parsed; changed in place if they do not set the folder.
        command: Beginning of the folder's name, such as ``predict``.
    """
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in loggers:
        name = getattr(logger, "class_path", repr(logger)).split(".")[-1]
        if name in LOGGERS and logger.init_args.version is None:
            runs = Path(logger.init_args.save_dir, logger.init_args.name or "")
            free = next(number for number in itertools.count() if not (runs / f"{command}_{number}").exists())
            logger.init_args.version = f"{command}_{free}"


class SaveRunConfig(SaveConfigCallback):
    """Writes the config of a run into its folder, as Lightning does.

    An evaluation without logger and without ``--run_folder`` has no folder, and its config is not written: it would
    end up in the working directory.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config, unless the run has no folder."""
        if stage == "fit" or trainer.loggers or Path(trainer.default_root_dir).resolve() != Path.cwd():
            super().setup(trainer, pl_module, stage)


class RefuseFolderInUse(Callback):
    """Refuses, on all ranks, to train in a folder that another run is writing to.

    Args:
        lock: Lock of the run's folder, which the first rank acquires.
        trainer: The trainer of the run.

    Raises:
        FolderInUseError: The folder is in use, and no other rank waits for this one.
    """

    def __init__(self, lock: RunLock, trainer: Trainer) -> None:
        self._refusal = ""
        if not trainer.is_global_zero:
            return
        try:
            lock.take()
        except FolderInUseError as error:
            if trainer.world_size == 1 or trainer.strategy.launcher is not None:
                raise
            self._refusal = str(error)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the first rank's refusal to the other ranks.

        Raises:
            FolderInUseError: The first rank was refused.
        """
        refusal = trainer.strategy.broadcast(self._refusal)
        if refusal:
            raise FolderInUseError(refusal)


class RefuseDifferentCheckpoints(Callback):
    """Refuses to resume if ranks found different checkpoints: a shared disk may show a new file late on some nodes.

    Args:
        checkpoint: The checkpoint that this rank found.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = str(checkpoint)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare with the first rank.

        Raises:
            RuntimeError: They differ, so the ranks would train different models.
        """
        first = trainer.strategy.broadcast(self.checkpoint)
        if first != self.checkpoint:
            raise RuntimeError(
                f"rank {trainer.global_rank} on {os.uname().nodename} would go on from {self.checkpoint}, the first "
                f"rank from {first}: the disk does not show the same files everywhere. Start the run again"
            )
