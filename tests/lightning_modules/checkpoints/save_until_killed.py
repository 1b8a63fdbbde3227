"""Saves over and over, and is killed in the middle of one: ``python -m ... FOLDER POINT ...``; see test_kills.py.

Each point has a process and a folder ``FOLDER/POINT`` of its own; how the processes ended is printed, one a line. They
are forked from one that has imported everything and has no threads yet.

POINT is ``CALL:NUMBER`` or ``CALL:NUMBER:before``: the process kills itself with SIGKILL at the so-many-th time that
the call (of the operating system) is made in the second save.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.checkpoints import atomic_folder, safetensors_writer, saving
from lightning_modules.checkpoints.keeping import KeepCheckpoints
from tests.lightning_modules.checkpoints.small_runs import batches, make_module, make_trainer

CALLS: dict[str, list[tuple[Any, str]]] = {
    "fsync": [(os, "fsync")],
    "rename": [(os, "rename")],
    "replace": [(os, "replace")],
    "rmtree": [(shutil, "rmtree")],
    "add": [(safetensors_writer.SafetensorsWriter, "add")],
    "index": [(saving, "_write_file")],
    "publish": [(atomic_folder, "publish")],
}


def kill_at(call: str, number: int, before: bool) -> None:
    """Make the process kill itself at a call."""
    seen = 0

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == number and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    for place, name in CALLS[call]:
        setattr(place, name, killing(getattr(place, name)))


class Arm(KeepCheckpoints):
    """Does not count calls during the first save."""

    def __init__(self, folder: str, point: str) -> None:
        super().__init__(every_n_steps=2, folder=folder)
        self.point = point

    def save(self, trainer: Any) -> None:
        if trainer.global_step == 4:
            call, number, *before = self.point.split(":")
            kill_at(call, int(number), bool(before))
        super().save(trainer)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        target = Path(sys.argv[1]) / each / "kept"
        process = os.fork()
        if process == 0:
            make_trainer(target.parent, 8, Arm(str(target), each)).fit(make_module(), batches())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
