"""Sends a run to Weights & Biases."""

import importlib
import os
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.monitoring.tracker import Tracker

_STEP = "trainer/global_step"
"""The x-axis of all curves, under the name that Lightning's own logger uses."""


class WandbTracker(Tracker):
    """Sends curves, settings and pictures to Weights & Biases.

    W&B's environment variables apply: ``WANDB_API_KEY``, ``WANDB_ENTITY``, and ``WANDB_MODE=offline``, which sends
    nothing and writes into ``wandb/`` in the run's folder. W&B's reports about its own errors are off, unless
    ``WANDB_ERROR_REPORTING`` is set.

    Args:
        project: Project in W&B.
        entity: User or team; W&B's default if not given.
        group: Group of runs in W&B.
        tags: Tags of the run.
    """

    title = "W&B"
    packages = {"wandb": "wandb>=0.20"}  # noqa: RUF012

    def __init__(
        self,
        project: str = "membridge",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(project)
        self._options = {"entity": entity, "group": group, "tags": list(tags)}
        self._wandb: Any = None
        self._run: Any = None

    def where(self) -> str:
        """The run's address, or the command that uploads what was written offline."""
        if self._run is None:
            return ""
        if not self._run.offline:
            return str(self._run.url)
        folder = os.path.dirname(os.path.dirname(self._run.dir))
        return f"wandb sync {shlex.quote(os.path.relpath(folder))}/offline-run-*"

    def _begin(self, earlier: str | None) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = importlib.import_module("wandb")
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=self.project,
            name=self.version or None,
            id=earlier,
            resume=None if earlier is None else "allow",
            dir=None if self._folder is None else str(self._folder),
            config=self.settings,
            allow_val_change=True,
            reinit="finish_previous",
            settings=self._wandb.Settings(quiet=True),
            **self._options,
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP, step_sync=True)
        return str(self._run.id)

    def _send_values(self, values: dict[str, float], step: int) -> None:
        self._log(values, step)

    def _send_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self._log({name: self._wandb.Image(picture)}, step)

    def _send_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self._log({name: self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def _send_histogram(self, name: str, values: Tensor, step: int) -> None:
        self._log({name: self._wandb.Histogram(values.tolist())}, step)

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._run.log({**values, _STEP: step})

    def _end(self, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)
