"""Jobs of the submit command in a real Slurm: two virtual nodes on this host.

``tests/cluster/install_slurm`` gets the packages; without them these tests fail rather than be skipped.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lightning_modules.submit.__main__ import main as submit
from tests.cluster.local_slurm import LocalSlurm, local_slurm, wait_for
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import make_part_folders
from tests.fixtures_training import write_run_config

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 12
STAND_IN = """\
#!/usr/bin/env bash
# Stands for python: writes down its arguments, and does what the option --behaviour says. train.py is $1.
[[ $1 == -c ]] && echo "torch==1" && exit 0
while (($#)); do
    [[ $1 == --run_folder || $1 == --out ]] && folder=$2
    [[ $1 == --behaviour ]] && behaviour=$2
    printf '%s\\n' "$1" >> "$PWD/arguments.$SLURM_JOB_ID.$SLURM_PROCID.${SLURM_RESTART_COUNT:-0}"
    shift
done
mkdir -p "$folder"
trap 'echo TERM >> "$folder/signals"; exit 75' TERM
trap 'exit 75' USR1
touch "$folder/started.$SLURM_PROCID.${SLURM_RESTART_COUNT:-0}"
[[ $behaviour == wait && ${SLURM_RESTART_COUNT:-0} == 0 ]] && while :; do sleep 0.1; done
[[ $behaviour == fail ]] && exit 3
exit 0
"""

TRAIN = """\
from types import SimpleNamespace as Settings

def parse(args):
    loading = Settings(batch_size=8, budget=None)
    return Settings(data=Settings(loading=loading, validation={"a": "a b.tar"}), checkpoint=Settings(folder=None))
"""

Submit = Callable[..., list[str]]


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    with (
        tempfile.TemporaryDirectory(prefix="slurm") as folder,
        local_slurm(Path(folder)) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster


@pytest.fixture
def place(slurm: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a space in its name, whose train.py is a stand-in."""
    folder = tmp_path / "my work"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def submit_recorder(place: Path, capsys: pytest.CaptureFixture[str]) -> Submit:
    """Submits a job of two processes that behaves as told; gives the jobs' numbers."""

    def run(*options: str, behaviour: str = "end", arguments: tuple[str, ...] = ()) -> list[str]:
        own = ["--nodes=2", "--gpus=0", "--time=00:03:00", f"--python={place}/python", "--run-folder=run", *options]
        capsys.readouterr()
        status = submit([*own, "--", "fit", "--behaviour", behaviour, *arguments])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return re.findall(r"^(?:job|evaluation) (\d+)", printed.out, re.MULTILINE)

    return run


def test_processes_get_the_very_arguments(slurm: LocalSlurm, place: Path, submit_recorder: Submit) -> None:
    awkward = ("--x", 'a "b" $HOME `c` \\d', "--y", "it's", "--z", "ä * ?")
    (job,) = submit_recorder(arguments=awkward)
    slurm.wait_for_state(job, "COMPLETED")
    for rank in (0, 1):
        given = (place / f"arguments.{job}.{rank}.0").read_text().splitlines()
        assert given == [
            "train.py", "fit", "--behaviour", "end", *awkward, "--run_folder", "run",
            "--trainer.num_nodes", "2", "--trainer.devices", "1",
        ]  # fmt: skip
    assert (place / "run" / "finished").exists()


@pytest.mark.parametrize("kind", ["--signal=USR1", "--batch --signal=USR1", "--full --signal=USR1", "--signal=TERM"])
def test_a_job_that_stopped_for_a_signal_queues_again_and_finishes(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit, kind: str
) -> None:
    (job,) = submit_recorder(behaviour="wait")
    wait_for(lambda: len(list((place / "run").glob("started.*.0"))) == 2, "both processes", 30)
    slurm.run("scancel", *kind.split(), job)
    slurm.wait_for_state(job, "COMPLETED")
    assert sorted(path.name for path in (place / "run").glob("started.*")) == [
        "started.0.0", "started.0.1", "started.1.0", "started.1.1",
    ]  # fmt: skip
    assert (place / "run" / "finished").exists()


def test_a_job_that_its_user_cancels_does_not_come_back(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    (job,) = submit_recorder(behaviour="wait")
    wait_for(lambda: len(list((place / "run").glob("started.*.0"))) == 2, "both processes", 30)
    slurm.run("scancel", job)
    slurm.wait_for_state(job, "CANCELLED")
    assert (place / "run" / "signals").read_text().split() == ["TERM"] * 2  # they could have saved
    assert not (place / "run" / "finished").exists()


def test_a_job_that_may_not_queue_again_ends_and_the_next_of_the_chain_goes_on(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    first, second, third = submit_recorder("--requeue=false", "--chain=3", behaviour="wait")
    wait_for(lambda: len(list((place / "run").glob("started.*.0"))) == 2, "both processes", 30)
    assert {slurm.state(second), slurm.state(third)} == {"PENDING"}
    slurm.run("scancel", "--signal=USR1", first)
    slurm.wait_for_state(first, "FAILED")
    wait_for(lambda: (place / f"arguments.{second}.0.0").exists(), "the second job", 30)
    slurm.run("scancel", second)
    slurm.wait_for_state(third, "RUNNING", "COMPLETED")
    slurm.run("scancel", third)


def test_what_is_left_of_a_chain_ends_at_once_when_the_run_is_finished(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    first, second = submit_recorder("--chain=2")
    slurm.wait_for_state(second, "COMPLETED")
    assert (place / f"arguments.{first}.0.0").exists()
    assert not (place / f"arguments.{second}.0.0").exists()
    assert "run is finished" in (place / "run" / f"slurm-{second}.out").read_text()


def test_a_run_that_fails_is_neither_finished_nor_queued_again(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    (job,) = submit_recorder(behaviour="fail")
    slurm.wait_for_state(job, "FAILED")
    assert not (place / "run" / "finished").exists()
    assert "Exited with exit code 3" in (place / "run" / f"slurm-{job}.out").read_text()


def test_arms_of_a_sweep_run_in_folders_of_their_own_and_queue_again_each_for_itself(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    sweep = [{"name": "one"}, {"name": "two", "options": {"behaviour": "wait", "x.y": [1, "a b"], "z": True}}]
    (place / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    (job,) = submit_recorder("--sweep=sweep.yaml")
    wait_for(lambda: len(list((place / "run" / "two").glob("started.*.0"))) == 2, "the second arm", 30)
    wait_for(lambda: (place / "run" / "one" / "finished").exists(), "the first arm", 30)
    slurm.run("scancel", "--signal=USR1", f"{job}_1")
    wait_for(lambda: (place / "run" / "two" / "finished").exists(), "the second arm again", 60)
    assert len(list((place / "run" / "one").glob("started.*"))) == 2
    assert any('--x.y\n[1, "a b"]\n--z\ntrue\n' in path.read_text() for path in place.glob("arguments.*"))


def test_every_node_stages_the_shards_before_training(slurm: LocalSlurm, place: Path, submit_recorder: Submit) -> None:
    (place / "shared disk").mkdir()
    for name in ("train-0.tar", "train-1.tar"):
        (place / "shared disk" / name).write_text(name)
    folder = f"--stage.folder={place}/own/$SLURMD_NODENAME/shards"  # both nodes are this host
    (job,) = submit_recorder(f"--stage.files=['{place}/shared disk/train-*.tar']", folder)
    slurm.wait_for_state(job, "COMPLETED")
    copies = sorted(str(path.relative_to(place)) for path in place.glob("own/*/shards/*"))
    assert copies == [f"own/{node}/shards/train-{number}.tar" for node in ("n1", "n2") for number in (0, 1)]
    log = (place / "run" / f"slurm-{job}.out").read_text()
    assert log.count("2 of 2 files copied") == 2
    assert "nodes: n1 n2" in log
    assert (place / "run" / "starts" / f"{job}.0.txt").read_text() in log


def test_staging_that_fails_keeps_the_run_from_starting(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit
) -> None:
    (job,) = submit_recorder(f"--stage.files=[{place}/none.tar]", f"--stage.folder={place}/own")
    slurm.wait_for_state(job, "FAILED")
    assert f"there is no file {place}/none.tar" in (place / "run" / f"slurm-{job}.out").read_text()
    assert not list((place / "run").glob("started.*"))


@pytest.mark.parametrize("behaviour", ["end", "wait"])
def test_an_evaluation_follows_training_that_ended_well(
    slurm: LocalSlurm, place: Path, submit_recorder: Submit, behaviour: str
) -> None:
    """A run that stops and queues again has not ended yet."""
    training, evaluation = submit_recorder("--evaluate-after=true", behaviour=behaviour)
    if behaviour == "wait":
        wait_for(lambda: len(list((place / "run").glob("started.*.0"))) == 2, "both processes", 30)
        slurm.run("scancel", "--signal=USR1", training)
        wait_for(lambda: (place / "run" / "started.0.1").exists(), "the second start", 60)
    slurm.wait_for_state(evaluation, "COMPLETED")
    assert (place / "run" / "finished").exists()
    assert (place / f"arguments.{evaluation}.0.0").read_text().splitlines() == [
        "evaluate.py", "--checkpoint", "run/checkpoints/final.ckpt", "--data", "a b.tar", "--out", "run/evaluation",
    ]  # fmt: skip


def test_what_failed_is_not_evaluated(slurm: LocalSlurm, place: Path, submit_recorder: Submit) -> None:
    training, evaluation = submit_recorder("--evaluate-after=true", behaviour="fail")
    slurm.wait_for_state(training, "FAILED")
    slurm.wait_for_state(evaluation, "CANCELLED")


def test_each_arm_is_evaluated_after_its_own_training(slurm: LocalSlurm, place: Path, submit_recorder: Submit) -> None:
    sweep = [{"name": "one"}, {"name": "two", "options": {"behaviour": "fail"}}]
    (place / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    submit_recorder("--sweep=sweep.yaml", "--evaluate-after=[x.tar]")
    wait_for(lambda: (place / "run" / "one" / "evaluation").exists(), "the evaluation", 60)
    time.sleep(2)
    assert not (place / "run" / "two" / "evaluation").exists()


def test_what_slurm_says_against_a_job_is_passed_on(
    slurm: LocalSlurm, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(["--gpus=0", "--partition=nowhere", "--run-folder=run", "--", "fit"]) == 1
    assert "invalid partition specified: nowhere" in capsys.readouterr().err


def read_steps(folder: Path) -> dict[int, list[list[str]]]:
    """By rank, what each step trained on and with what loss."""
    files = sorted(folder.glob("steps-*.txt"))
    return {int(path.stem[-1]): [line.split() for line in path.read_text().splitlines()] for path in files}


def test_a_preempted_run_on_two_nodes_goes_on_at_the_very_next_sample(
    slurm: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    shards = {
        name: str(write_shard(tmp_path / f"{name}.tar", make_samples(count, start=10 * count)))
        for name, count in (("train", 23), ("validation", 2), ("predict", 2))
    }
    callbacks = yaml.safe_load((ROOT / "configs/base.yaml").read_text())["trainer"]["callbacks"]
    config = write_run_config(tmp_path, make_part_folders(tmp_path / "parts"), shards, callbacks=callbacks)

    def start(name: str, seconds: float) -> str:
        steps = {"class_path": "tests.cluster.step_file.StepFile"}
        steps["init_args"] = {"folder": str(tmp_path / name), "seconds": seconds}  # type: ignore[assignment]
        own = ["--nodes=2", "--gpus=0", "--time=00:05:00", f"--python={sys.executable}"]
        variables = "--variables={OMP_NUM_THREADS: 1}"
        command = ["fit", "-c", str(config), f"--trainer.max_steps={NUM_STEPS}", "--data.loading.batch_size=4"]
        more = [
            "--data.loading.num_workers=1",
            f"--trainer.callbacks+={yaml.safe_dump(steps, default_flow_style=True)}",
        ]
        assert submit([*own, variables, f"--run-folder={tmp_path / name}", "--", *command, *more]) == 0
        (number,) = re.findall(r"^job (\d+)", capsys.readouterr().out, re.MULTILINE)
        return str(number)

    stopped = start("stopped", 0.5)
    straight = start("straight", 0.0)
    wait_for(lambda: len(read_steps(tmp_path / "stopped").get(0, [])) >= 3, "three steps", 240)
    slurm.run("scancel", "--signal=USR1", stopped)
    for job, name in ((stopped, "stopped"), (straight, "straight")):
        state = slurm.wait_for_state(job, "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", timeout=300)
        assert state == "COMPLETED", (tmp_path / name / f"slurm-{job}.out").read_text()
    log = (tmp_path / "stopped" / f"slurm-{stopped}.out").read_text()
    assert "Stopped by SIGUSR1 after step" in log
    assert "Going on from" in log
    expected = read_steps(tmp_path / "straight")
    assert [len(steps) for steps in expected.values()] == [NUM_STEPS] * 2
    assert read_steps(tmp_path / "stopped") == expected
    folder = tmp_path / "stopped"
    assert (folder / "checkpoints" / "final.ckpt").resolve().name == f"step-{NUM_STEPS:08d}.ckpt"
    assert len(list(folder.glob("events.out.*"))) == 2  # of both starts, in one folder
    assert not list(folder.glob("version_*"))
