"""What a tracker does when its package, its server or one of its calls fails."""

import warnings
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray

import train
from lightning_modules.console.settings_errors import SettingsError
from lightning_modules.monitoring import MlflowTracker, VideoInspection
from lightning_modules.monitoring.tracker import Tracker, TrackerError
from lightning_modules.monitoring.video_figures import draw_histogram
from lightning_modules.monitoring.video_sinks import markdown_table
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import make_loader, make_trainer, write_run_config


class FakeTracker(Tracker):
    """Remembers its calls, and fails from one of them on."""

    title = "Fake"
    packages = {"json": "json"}  # noqa: RUF012

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails = fails
        self.begun: list[str | None] = []
        self.sent: list[Any] = []

    def where(self) -> str:
        return "nowhere"

    def _begin(self, earlier: str | None) -> str:
        self.begun.append(earlier)
        if self.fails == "begin":
            raise ConnectionError("no server at http://x")
        return earlier or "id1"

    def _send_values(self, values: dict[str, float], step: int) -> None:
        if self.fails == "values":
            raise ConnectionError("the server is gone")
        self.sent.append((step, values))

    def _send_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        self.sent.append((step, name, picture.shape))

    def _send_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.sent.append((step, name, [tuple(row) for row in rows]))

    def _end(self, succeeded: bool) -> None:
        self.sent.append("success" if succeeded else "failure")


def test_failure_after_the_beginning_is_told_once_and_nothing_more_is_sent() -> None:
    tracker = FakeTracker()
    tracker.log_metrics({"a": 1.0}, 3)
    tracker.fails = "values"
    with pytest.warns(UserWarning, match="Fake failed, and gets nothing more of this run: .*the server is gone"):
        tracker.log_metrics({"a": 2.0}, 4)
    tracker.fails = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_metrics({"a": 3.0}, 5)
        tracker.add_figure("f", Figure(figsize=(1, 1)), 5)
        tracker.finalize("success")
    assert tracker.sent == [(3, {"a": 1.0})]


def test_failure_at_the_beginning_ends_the_run() -> None:
    with pytest.raises(TrackerError, match=r"Fake cannot begin the run: no server at http://x\. Correct that"):
        FakeTracker("begin").save()


def test_identifier_in_the_run_folder_is_used_again(tmp_path: Path) -> None:
    trackers = [FakeTracker(), FakeTracker()]
    for tracker in trackers:
        tracker.set_run(tmp_path / "new" / "run", {})
        tracker.save()
        tracker.save()
        tracker.finalize("failed")
    assert [tracker.begun for tracker in trackers] == [[None], ["id1"]]
    assert trackers[0].version == "new/run"
    assert trackers[0].sent == ["failure"]


def test_every_sink_gets_the_videos_of_a_validation(folders: PartFolders, tmp_path: Path) -> None:
    tracker, batch = FakeTracker(), make_batch(folders)
    loggers = [TensorBoardLogger(tmp_path, name="", version=""), tracker]
    trainer = make_trainer(tmp_path, logger=loggers, callbacks=[VideoInspection(1)])
    trainer.validate(make_module(folders), make_loader([batch]), verbose=False)
    shown = {sent[1]: sent[2] for sent in tracker.sent if len(sent) == 3}
    assert set(shown) == {"videos/0/two-questions", "answers/0/two-questions", "segments_a_video/0"}
    assert [row[:2] for row in shown["answers/0/two-questions"]] == [
        ("which colour ?", "red"),
        ("which shape ?", "circle"),
        ("and then ?", "blue square"),
    ]
    height, width, channels = shown["videos/0/two-questions"]
    assert (height > 300, width > 500, channels) == (True, True, 3)


def test_tracker_alone_is_refused(folders: PartFolders, tmp_path: Path) -> None:
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(2)))
    shards = dict.fromkeys(("train", "validation", "predict"), shard)
    config = write_run_config(tmp_path, folders, shards)
    with pytest.raises(SettingsError, match="a FakeTracker has no folder for the run's files; name it under trackers"):
        train.main(["fit", "-c", str(config), f"--trainer.logger={__name__}.FakeTracker"])


def test_database_of_mlflow_needs_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "sqlalchemy" else find(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=r"MLflow needs SQLAlchemy .* pip install 'mlflow>=3'"):
        MlflowTracker(tracking_uri="sqlite:///x.db")
    server = MlflowTracker(tracking_uri="https://me:secret@host/mlflow")  # needs no database here
    server._run = "id"
    assert server.where() == "https://host/mlflow"


def test_cells_of_a_table_stay_cells() -> None:
    assert markdown_table(("a", "b"), [("1 | 2", "x\ny")]) == "| a | b |\n|---|---|\n| 1 \\| 2 | x y |"


def test_histogram_counts_whole_numbers() -> None:
    [axis] = draw_histogram("segments", torch.tensor([1, 3, 3])).axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axis.patches}
    assert bars == {1: 1, 3: 2}
