"""Sends a run to Trackio."""

import contextlib
import importlib
import io
import os
import shlex
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.monitoring.tracker import Tracker
from lightning_modules.monitoring.video_sinks import markdown_table


class TrackioTracker(Tracker):
    """Sends curves, settings and pictures to Trackio, which stores them in files of this machine.

    Trackio's environment variables apply: ``TRACKIO_DIR``, the folder of its files, and ``TRACKIO_SPACE_ID`` or
    ``TRACKIO_SERVER_URL``, if the run goes to a Space of the Hugging Face hub or to a server. Usage statistics are off.

    Args:
        project: Project in Trackio.
        group: Group of runs in Trackio.
    """

    title = "Trackio"
    packages = {"trackio": "trackio>=0.20"}  # noqa: RUF012

    def __init__(self, project: str = "membridge", group: str | None = None) -> None:
        super().__init__(project)
        self._group = group
        self._trackio: Any = None
        self._run: Any = None

    def where(self) -> str:
        """The command that shows the project."""
        return "" if self._run is None else f"trackio show --project {shlex.quote(self.project)}"

    def _begin(self, earlier: str | None) -> str:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        # Trackio finds a run again by its name alone, so the name is unique.
        name = earlier or f"{self.version or 'run'}-{uuid.uuid4().hex[:8]}"
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio = importlib.import_module("trackio")
            self._run = self._trackio.init(
                project=self.project,
                name=name,
                group=self._group,
                config=self.settings,
                resume="never" if earlier is None else "allow",
                embed=False,
            )
        return name

    def _send_values(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def _send_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self._run.log({name: self._trackio.Image(picture)}, step=step)

    def _send_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self._run.log({name: self._trackio.Markdown(markdown_table(columns, rows))}, step=step)

    def _send_histogram(self, name: str, values: Tensor, step: int) -> None:
        self._run.log({name: self._trackio.Histogram(values.tolist())}, step=step)

    def _end(self, succeeded: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()  # of the module: it forgets the run, which would be finished again at exit
