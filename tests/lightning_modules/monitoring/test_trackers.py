"""Trackers get what TensorBoard gets, through the real command line and without a network."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.child_program import ROOT, results_of
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_training import write_run_config

CONFIGS = ROOT / "configs" / "logger"
TRACKERS = ("wandb.yaml", "mlflow.yaml", "trackio.yaml")
IN_TURN = [
    pytest.param(name, marks=pytest.mark.slow if name == "trackio.yaml" else pytest.mark.nightly) for name in TRACKERS
]
NO_NETWORK = """
import socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
        open({file!r}, "a").write(f"{{address}}\\n")
        raise OSError("no network in tests")
    return connect(self, address)
def look_up(host, *args, of=socket.getaddrinfo, **kwargs):
    if host not in ("127.0.0.1", "::1", "localhost", None, socket.gethostname()):
        open({file!r}, "a").write(f"{{host}}\\n")
        raise socket.gaierror("no network in tests")
    return of(host, *args, **kwargs)
socket.socket.connect, socket.getaddrinfo = refuse, look_up
"""
READ_MLFLOW = """
import os, sys
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from mlflow.tracking import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/runs/mlflow.db")
[experiment] = [each for each in client.search_experiments() if each.name == "membridge"]
[run] = client.search_runs([experiment.experiment_id])
def files(path=None):
    for each in client.list_artifacts(run.info.run_id, path):
        yield from files(each.path) if each.is_dir else [each.path]
found = list(files())
results = {
    "name": run.info.run_name,
    "curves": {n: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, n)] for n in run.data.metrics},
    "settings": run.data.params["trainer.precision"],
    "pictures": len([f for f in found if f.startswith("images/videos~1x~sample00") and f.endswith(".png")]),
    "tables": len([f for f in found if f.startswith("answers/1x/sample00") and f.endswith(".md")]),
    "histograms": len([f for f in found if f.startswith("images/segments_a_video~1x") and f.endswith(".png")]),
    "ended": run.info.status == "FINISHED",
}
"""
READ_TRACKIO = """
import os, sys
os.environ["TRACKIO_DIR"] = f"{sys.argv[1]}/trackio"
import trackio
from trackio.sqlite_storage import SQLiteStorage
[run] = trackio.Api().runs("membridge")
curves, media = {}, []
for row in SQLiteStorage.get_logs("membridge", run.name, run_id=run.id):
    for name, value in row.items():
        if isinstance(value, dict):
            media.append([name, value["_type"]])
        elif name not in ("step", "timestamp"):
            curves.setdefault(name, []).append([row["step"], value])
results = {
    "name": run.name.rpartition("-")[0],
    "curves": curves,
    "settings": run.config["trainer"]["precision"],
    "pictures": len([1 for name, kind in media if name.startswith("videos/1x/sample00") and kind == "trackio.image"]),
    "tables": len([1 for name, kind in media if name.startswith("answers/1x/sample00") and kind == "trackio.markdown"]),
    "histograms": media.count(["segments_a_video/1x", "trackio.histogram"]),
    "ended": True,
}
"""
READ_WANDB = """
import glob, json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record
def records(path):  # blocks of LevelDB's log format, after a header of 7 bytes
    data, at, whole = open(path, "rb").read(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""
rows, runs, ended = [], [], 0
for path in sorted(glob.glob(f"{sys.argv[1]}/run/wandb/offline-run-*/*.wandb")):
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            rows.append({})
            for item in record.history.item:
                first, *rest = item.nested_key or [item.key]
                within = rows[-1].setdefault(first, {}) if rest else rows[-1]
                within["/".join(rest) or first] = json.loads(item.value_json)
        if record.WhichOneof("record_type") == "run":
            runs.append(record.run)
        ended += record.WhichOneof("record_type") == "exit"
assert len({run.run_id for run in runs}) == 1, "a resumed run is another"
config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
curves, media = {}, []
for row in rows:
    for name, value in row.items():
        if isinstance(value, dict):
            media.append([name, value["_type"]])
        elif not name.startswith("_") and name != "trainer/global_step":
            curves.setdefault(name, []).append([row["trainer/global_step"], value])
results = {
    "name": runs[0].display_name,
    "curves": curves,
    "settings": config["trainer"]["precision"],
    "pictures": len([1 for name, kind in media if name.startswith("videos/1x/sample00") and kind == "image-file"]),
    "tables": len([1 for name, kind in media if name.startswith("answers/1x/sample00") and kind == "table-file"]),
    "histograms": media.count(["segments_a_video/1x", "histogram"]),
    "ended": ended == 2,
}
"""
READERS = {"wandb.yaml": READ_WANDB, "mlflow.yaml": READ_MLFLOW, "trackio.yaml": READ_TRACKIO}


@pytest.fixture
def fit(tmp_path: Path, folders: PartFolders) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs ``train.py fit`` in a process of its own that has no network."""
    shard = str(write_shard(tmp_path / "shard.tar", make_samples(6)))
    callbacks = [
        {"class_path": f"lightning_modules.monitoring.{name}"}
        for name in ("ThroughputMonitor", "GradientMonitor", "VideoInspection")
    ]
    shards = dict.fromkeys(("train", "validation", "predict"), shard)
    config = write_run_config(tmp_path, folders, shards, callbacks=callbacks, log_every_n_steps=1)
    (tmp_path / "startup").mkdir()
    blocked = NO_NETWORK.format(file=str(tmp_path / "network.txt"))
    (tmp_path / "startup" / "sitecustomize.py").write_text(blocked, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))} | {
        "PYTHONPATH": f"{tmp_path}/startup:{ROOT}",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }

    def run(*arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "train.py"), "fit", "-c", str(config), *arguments]
        options: Any = {"capture_output": True, "text": True, "check": False, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, cwd=tmp_path, env=environment | changes, **options)

    return run


@pytest.mark.parametrize("name", IN_TURN)
def test_tracker_gets_the_curves_of_tensorboard_and_goes_on_in_the_same_run(
    name: str, fit: Callable[..., Any], tmp_path: Path
) -> None:
    for steps in (2, 4):
        ended = fit("-c", str(CONFIGS / name), "--run_folder=run", f"--trainer.max_steps={steps}")
        assert ended.returncode == 0, ended.stderr
        assert "failed, and gets nothing more" not in ended.stderr
    assert not (tmp_path / "network.txt").exists()
    assert (tmp_path / "run" / "checkpoints" / "final.ckpt").exists()
    found = results_of(READERS[name], str(tmp_path))
    assert found["name"] == f"{tmp_path.name}/run"
    assert found["settings"] == "32-true"
    assert found["ended"]
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    curves = {tag: [[each.step, each.value] for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    curves.pop("hp_metric", None)  # TensorBoardLogger's own
    assert set(found["curves"]) == set(curves)
    for tag in ("train/loss", "val/loss/1x", "val/accuracy", "gradient_norm/total"):
        assert [step for step, _ in found["curves"][tag]] == [step for step, _ in curves[tag]]
        assert [value for _, value in found["curves"][tag]] == pytest.approx([value for _, value in curves[tag]])
    assert (found["pictures"], found["tables"], found["histograms"]) == (4, 4, 2)  # two videos, two validations


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_missing_package_is_named_with_what_to_install(name: str, tmp_path: Path) -> None:
    package = name.removesuffix(".yaml")
    hidden = "import importlib.util, sys\nfind = importlib.util.find_spec\nimportlib.util.find_spec = (\n"
    hidden += f"    lambda name, package=None: None if name == {package!r} else find(name, package)\n)\n"
    program = f"{hidden}sys.argv = ['train.py', *sys.argv[1:]]\nimport train\ntrain.run_and_exit(train.main)"
    arguments = ["fit", "-c", str(ROOT / "configs/quickstart_pixels.yaml"), "-c", str(CONFIGS / name)]
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert f"needs packages that are not installed: pip install '{package}>=" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_run_without_login_ends_with_what_to_do(fit: Callable[..., Any]) -> None:
    ended = fit("-c", str(CONFIGS / "wandb.yaml"), WANDB_MODE="online", HOME="/nonexistent")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: W&B cannot begin the run: No API key configured.")


@pytest.mark.slow
def test_run_without_logger_has_no_tracker_either(fit: Callable[..., Any], tmp_path: Path) -> None:
    ended = fit(*("-c", str(CONFIGS / "trackio.yaml"), "--trainer.logger=false", "--trainer.limit_val_batches=0"))
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("trackio/*.db"))


def test_every_file_names_its_tracker_in_one_line() -> None:
    assert {path.name for path in CONFIGS.glob("*.yaml")} == set(TRACKERS)
    for name in TRACKERS:
        lines = (CONFIGS / name).read_text(encoding="utf-8").splitlines()
        assert len([line for line in lines if not line.startswith("#")]) == 1
