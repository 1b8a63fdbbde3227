"""What loggers of experiment trackers have in common: they log beside TensorBoard, and go on when a run is resumed."""

import importlib.util
import warnings
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.monitoring.video_figures import draw_histogram, picture_of
from lightning_modules.monitoring.video_sinks import VideoSink


class TrackerError(RuntimeError):
    """A tracker cannot begin a run."""


class Tracker(Logger, VideoSink):
    """A logger that sends curves, settings and pictures to an experiment tracker, under the names of TensorBoard.

    Only the first rank sends. The tracker's run begins when Lightning has logged the hyperparameters, so a wrong
    address or a missing login ends the command before the first step. A failure after that does not end the training:
    a warning says so once, and nothing more is sent.

    The identifier of the tracker's run is written into the folder of the run. A run that is resumed in its folder
    (``--run_folder``) goes on in the same run of the tracker.

    Args:
        project: Project of the tracker; an "experiment" in MLflow.

    Raises:
        ModuleNotFoundError: The tracker's package is not installed.
    """

    title: ClassVar[str]
    """Name of the tracker in messages."""
    packages: ClassVar[Mapping[str, str]]
    """Modules that are needed, and what pip installs for each."""

    def __init__(self, project: str = "membridge") -> None:
        super().__init__()
        missing = [wheel for module, wheel in self.packages.items() if importlib.util.find_spec(module) is None]
        if missing:
            raise ModuleNotFoundError(
                f"the logger {type(self).__name__} needs packages that are not installed: "
                f"pip install {' '.join(map(repr, missing))}"
            )
        self.project = project
        self.settings: dict[str, Any] = {}
        self._folder: Path | None = None
        self._has_begun = self._has_failed = False

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str:
        """Name of the run in the tracker: the last two parts of its folder; empty without a folder."""
        return "" if self._folder is None else "/".join(self._folder.absolute().parts[-2:])

    def set_run(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Set what the run is called after and which settings it has; before the run begins.

        Args:
            folder: The run's folder.
            settings: All settings of the run.
        """
        self._folder, self.settings = folder, dict(settings)

    @rank_zero_only
    def save(self) -> None:
        """Begin the tracker's run. Lightning calls this before the first step, and again after each log.

        Raises:
            TrackerError: The run cannot begin: there is no login, or no server at the address.
        """
        if self._has_begun:
            return
        file = None if self._folder is None else self._folder / f"{type(self).__name__}.run"
        earlier = file.read_text(encoding="utf-8").strip() if file is not None and file.is_file() else None
        try:
            identifier = self._begin(earlier or None)
        except Exception as error:  # each tracker's client has its own classes
            raise TrackerError(
                f"{self.title} cannot begin the run: {str(error) or type(error).__name__}. Correct that, or train "
                f"without {type(self).__name__}"
            ) from error
        self._has_begun = True
        if file is not None and identifier != earlier:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{identifier}\n", encoding="utf-8")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings of the complete run are sent when it begins."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values of curves.

        Args:
            metrics: A value for each curve.
            step: The optimizer step.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._try(lambda: self._send_values(values, step or 0))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the tracker's run.

        Args:
            status: ``failed``, or how else the run ended.
        """
        if self._has_begun:
            self._try(lambda: self._end(status != "failed"))
            self._has_begun = False

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """Send a picture."""
        self._try(lambda: self._send_picture(name, picture_of(figure), step))

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """Send a table of text."""
        self._try(lambda: self._send_table(name, columns, rows, step))

    def add_histogram(self, name: str, values: Tensor, step: int) -> None:
        """Send how often values occur; ``values`` is ``[N]``."""
        self._try(lambda: self._send_histogram(name, values, step))

    @abstractmethod
    def where(self) -> str:
        """Where the run can be seen: an address or a command. Empty if that is not known yet."""

    @abstractmethod
    def _begin(self, earlier: str | None) -> str:
        """Begin a run or go on with the earlier one; gives its identifier."""

    @abstractmethod
    def _send_values(self, values: dict[str, float], step: int) -> None:
        """Send values of curves."""

    @abstractmethod
    def _send_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Send a picture ``[height, width, 3]``."""

    @abstractmethod
    def _send_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """Send a table."""

    def _send_histogram(self, name: str, values: Tensor, step: int) -> None:
        """Send a histogram: as a picture, where the tracker has no better way."""
        self._send_picture(name, picture_of(draw_histogram(name, values)), step)

    @abstractmethod
    def _end(self, succeeded: bool) -> None:
        """Send what is left, and end the run."""

    def _try(self, send: Callable[[], None]) -> None:
        if self._has_failed:
            return
        self.save()
        try:
            send()
        except Exception as error:  # whatever a tracker's client raises, the training is worth more
            self._has_failed = True
            warnings.warn(
                f"{self.title} failed, and gets nothing more of this run: {type(error).__name__}: {error}. The run "
                "goes on; TensorBoard has all curves",
                stacklevel=2,
            )
