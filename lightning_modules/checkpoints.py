"""How checkpoint files are written: whole, or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a file under its name is always a whole one.

    A run that is killed while it saves goes on from the checkpoint before. Lightning's own writing stages the file in
    the system's temporary folder; where that is another file system than the run's folder, as on most clusters, moving
    it is a copy, and a kill leaves half a ``last.ckpt`` in place of the good one. Nor does it wait for the disk, so a
    machine that loses power may lose both.

    Paths with a protocol (``s3://``) are left to Lightning: object stores show an object when it is complete.
    Strategies that write folders of shards (DeepSpeed, FSDP with sharded checkpoints) do not come here.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """See ``CheckpointIO``; raises what the base class does for ``storage_options``."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        # The same name every time: what a killed run left is overwritten, and no such files pile up.
        writing = final.with_name(f".{final.name}.writing")
        with writing.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(writing, final)
        _flush_names(final.parent)


def _flush_names(folder: Path) -> None:
    """Have the disk hold the folder's names too: the rename is one of them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
