"""Sends a run to MLflow."""

import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.monitoring.tracker import Tracker
from lightning_modules.monitoring.video_sinks import markdown_table

_NOT_OF_A_NAME = re.compile(r"[^-/\w. ]", re.ASCII)
"""A character that MLflow does not allow in a name."""
_LONGEST_VALUE = 6000
_MOST_PARAMETERS = 100
"""Limits of MLflow: characters of a parameter, and parameters in one call."""


class MlflowTracker(Tracker):
    """Sends curves, settings and pictures to MLflow: to a server, or into a database file of this machine.

    MLflow's usage statistics are off, unless ``MLFLOW_DISABLE_TELEMETRY`` is set.

    Args:
        project: Experiment in MLflow.
        tracking_uri: Address of a server or of a database; ``MLFLOW_TRACKING_URI`` if not given, and without that
            ``sqlite:///runs/mlflow.db``. MLflow's old folder of files (``file:``) does not hold the names of the
            curves: it needs ``val/accuracy`` to be a file and a folder.
    """

    title = "MLflow"
    packages = {"mlflow": "mlflow>=3"}  # noqa: RUF012

    def __init__(self, project: str = "membridge", tracking_uri: str | None = None) -> None:
        super().__init__(project)
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///runs/mlflow.db"
        is_database = not self.tracking_uri.startswith(("http://", "https://", "databricks"))
        if is_database and importlib.util.find_spec("sqlalchemy") is None:
            raise ModuleNotFoundError(
                "MLflow needs SQLAlchemy for a database, and mlflow-skinny comes without it: pip install 'mlflow>=3'"
            )
        self._client: Any = None
        self._run = ""

    def where(self) -> str:
        """The server's address, or the command that shows the database; without a password."""
        uri = re.sub(r"//[^/@]*@", "//", self.tracking_uri)
        return uri if uri.startswith(("http://", "https://", "databricks")) else f"mlflow ui --backend-store-uri {uri}"

    def _begin(self, earlier: str | None) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute; with its 7, over 4 minutes
        file = self.tracking_uri.removeprefix("sqlite:///")
        if file != self.tracking_uri:
            Path(file).absolute().parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # says how it makes each table
        self._client = importlib.import_module("mlflow.tracking").MlflowClient(self.tracking_uri)
        if earlier is not None and self._exists(earlier):
            self._client.update_run(earlier, status="RUNNING")
            self._run = earlier
            return earlier
        self._run = str(self._client.create_run(self._experiment(file), run_name=self.version or None).info.run_id)
        parameter = importlib.import_module("mlflow.entities").Param
        parameters = [
            parameter(_NOT_OF_A_NAME.sub("_", name), str(value)[:_LONGEST_VALUE])
            for name, value in _flattened(self.settings)
        ]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + _MOST_PARAMETERS])
        return self._run

    def _exists(self, run: str) -> bool:
        """Whether the tracker still has a run; another database or server does not."""
        try:
            found = self._client.get_run(run)
        except importlib.import_module("mlflow.exceptions").MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(found.info.lifecycle_stage == "active")

    def _experiment(self, file: str) -> str:
        """The experiment's identifier. A new one beside a database file has its pictures there too."""
        found = self._client.get_experiment_by_name(self.project)
        if found is not None:
            return str(found.experiment_id)
        beside = Path(file).absolute().parent / "mlflow_artifacts" if file != self.tracking_uri else None
        try:
            return str(self._client.create_experiment(self.project, None if beside is None else beside.as_uri()))
        except importlib.import_module("mlflow.exceptions").MlflowException:
            found = self._client.get_experiment_by_name(self.project)  # another run may have been faster
            if found is None:
                raise
            return str(found.experiment_id)

    def _send_values(self, values: dict[str, float], step: int) -> None:
        metric = importlib.import_module("mlflow.entities").Metric
        now = int(time.time() * 1000)
        metrics = [metric(_NOT_OF_A_NAME.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _send_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self._client.log_image(self._run, picture, key=_NOT_OF_A_NAME.sub("_", name), step=step)

    def _send_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        file = f"{_NOT_OF_A_NAME.sub('_', name)}/step-{step:08d}.md"
        self._client.log_text(self._run, markdown_table(columns, rows), file)

    def _end(self, succeeded: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if succeeded else "FAILED")


def _flattened(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
