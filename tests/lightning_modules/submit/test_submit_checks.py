"""The submit command's checks before a job is queued, its records, and its copies of shards."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_modules.submit.__main__ import main
from lightning_modules.submit.staging import Stage, expanded_by_bash, staging

ROOT = Path(__file__).resolve().parents[3]
MODEL = ["-c", "configs/base.yaml", "-c", "configs/quickstart_pixels.yaml", "-c", "configs/quickstart.yaml"]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Returns the error message of a command."""

    def run(*options: str, more: tuple[str, ...] = (), subcommand: str = "fit") -> str:
        with pytest.raises(SystemExit) as stop:
            main([*options, "--dry-run", "--", subcommand, *MODEL, *more])
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


def write_sweep(path: Path, *arms: object) -> str:
    path.write_text(yaml.safe_dump(list(arms)))
    return f"--sweep={path}"


def test_errors_of_all_arms_are_said_at_once_each_once(refused: Refused, tmp_path: Path) -> None:
    sweep = write_sweep(
        tmp_path / "sweep.yaml",
        {"name": "right"},
        {"name": "typo", "options": {"modle.x": 1}},
        {"name": "same", "options": {"modle.x": 1}},
        {"name": "type", "configs": ["configs/ablation/no_recurrence.yaml"], "options": {"trainer.max_steps": "many"}},
        {"name": "class", "options": {"model.bridge": "components.bridges.none.Nothing"}},
        {"name": "precision", "options": {"trainer.precision": "bf16-true"}},
        {"name": "reference", "options": {"data.tokenizer": "${..model.nowhere}"}},
    )
    said = refused("--gpus=1", sweep)
    assert re.search(r"^typo, same: .*modle\.x", said, re.MULTILINE)
    assert re.search(r"^type: .*trainer\.max_steps", said, re.MULTILINE)
    assert re.search(r"^class: .*model\.bridge", said, re.MULTILINE)
    assert re.search(r"^precision: .*bf16-mixed", said, re.MULTILINE)
    assert re.search(r"^reference: .*nowhere", said, re.MULTILINE)
    assert "right" not in said


def test_an_error_of_a_single_run_is_the_parser_s_own(refused: Refused) -> None:
    assert "data.loading.bach_size; did you mean 'data.loading.batch_size'?" in refused(
        "--gpus=1", more=("--data.loading.bach_size=8",)
    )


def test_an_interpolation_that_leads_nowhere_is_named(refused: Refused) -> None:
    assert "nowhere" in refused("--gpus=1", more=("--data.tokenizer=${..model.nowhere}",))


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        (["--nodes=4"], ("--data.loading.batch_size=8",), r"batch_size 8 .*\n.* 4 nodes x 8 processes = 32"),
        (["--gpus=3"], (), r"batch_size 32 .*\n.* 1 nodes x 3 processes = 3; choose a multiple of 3"),
        (["--nodes=3", "--gpus=0"], (), r"batch_size 32 .*\n.* 3 nodes x 1 processes = 3"),
        (
            ["--nodes=2", "--gpus=4"],
            ("--data.loading.batch_size=null", "--data.loading.budget={max_frames: 99, group_size: 4}"),
            r"budget.group_size 4 .*\n.* = 8",
        ),
    ],
)
def test_a_batch_that_cannot_be_split_over_the_processes_is_refused(
    refused: Refused, options: list[str], more: tuple[str, ...], said: str
) -> None:
    assert re.search(said, refused(*options, more=more))


def test_batches_of_every_arm_are_checked(refused: Refused, tmp_path: Path) -> None:
    arms = [{"name": f"of_{size}", "options": {"data.loading.batch_size": size}} for size in (8, 12, 16, 20)]
    said = refused("--nodes=2", "--gpus=4", write_sweep(tmp_path / "sweep.yaml", *arms))
    assert re.findall(r"(\w+): data.loading.batch_size", said) == ["of_12", "of_20"]


def test_judging_takes_any_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpus=3", "--dry-run", "--", "validate", *MODEL]) == 0


def test_variables_that_only_the_job_has_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    shards = "[{shards: '${oc.env:SLURM_TMPDIR}/shards/train-*.tar'}]"
    assert main(["--dry-run", "--", "fit", *MODEL, "--data.train", shards]) == 0
    assert "${oc.env:SLURM_TMPDIR}/shards" in capsys.readouterr().out  # each process reads its own
    assert "SLURM_TMPDIR" not in os.environ


def test_evaluation_takes_the_validation_sets_or_the_given_shards(capsys: pytest.CaptureFixture[str]) -> None:
    sets = "{a: '/data/a b.tar', b: ['${oc.env:SLURM_TMPDIR}/b.tar', c.tar]}"
    assert main(["--dry-run", "--evaluate-after=true", "--", "fit", *MODEL, f"--data.validation={sets}"]) == 0
    script = capsys.readouterr().out
    assert """shards=('/data/a b.tar' "$SLURM_TMPDIR"/b.tar c.tar)""" in script
    evaluation = script[script.index("# The job that evaluates") :]
    assert "--gpus-per-node=1\n" in evaluation
    assert "train.py" not in evaluation
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert main(["--dry-run", "--evaluate-after=[x.tar, y.tar]", "--", "fit", *MODEL]) == 0
    assert "shards=(x.tar y.tar)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("subcommand", "more", "said"),
    [
        ("fit", ("--data.validation=null",), "the run has none: give a list of shards"),
        ("fit", ("--checkpoint.folder=/elsewhere",), "leave that setting out"),
        ("validate", (), "this is validate"),
    ],
)
def test_an_evaluation_that_could_not_run_is_refused(
    refused: Refused, subcommand: str, more: tuple[str, ...], said: str
) -> None:
    assert said in refused("--evaluate-after=true", more=more, subcommand=subcommand)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a b/it's $(touch x)`touch y`;*.tar", "/a b/it's $(touch x)`touch y`;*.tar"),
        ("$PLACE/a b", "/the place/a b"),
        ("${PLACE}x", "/the placex"),
        ('"$PLACE"', '"/the place"'),
    ],
)
def test_only_variables_of_a_path_are_expanded(tmp_path: Path, text: str, expected: str) -> None:
    command = ["bash", "-c", f"printf %s {expanded_by_bash(text)}"]
    result = subprocess.run(command, cwd=tmp_path, env={"PLACE": "/the place"}, capture_output=True, text=True)
    assert result.stdout == expected
    assert list(tmp_path.iterdir()) == []


def stage(tmp_path: Path, *files: str) -> tuple[int, str]:
    """Run the staging lines of a job script with a stand-in for srun; return status and output."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin/srun").write_text(
        '#!/usr/bin/env bash\nwhile [[ $1 == -* ]]; do shift; done\nSLURM_PROCID=0 exec "$@"\n'
    )
    (tmp_path / "bin/srun").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "LOCAL": str(tmp_path / "own disk"), "SLURM_JOB_ID": "1",
        "SLURM_JOB_NUM_NODES": "1",
    }  # fmt: skip
    script = staging(Stage(list(files), "$LOCAL/shards"))
    result = subprocess.run(["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_staging_copies_what_is_missing_or_changed_and_nothing_twice(tmp_path: Path) -> None:
    shared = tmp_path / "shared disk"
    shared.mkdir()
    for name in ("train-0.tar", "train-1.tar", "other.tar"):
        (shared / name).write_text(name)
    pattern, copies = f"{shared}/train-*.tar", tmp_path / "own disk/shards"
    status, said = stage(tmp_path, pattern)
    assert status == 0, said
    assert "2 of 2 files copied" in said
    assert sorted(path.name for path in copies.iterdir()) == ["train-0.tar", "train-1.tar"]
    assert "0 of 2 files copied" in stage(tmp_path, pattern)[1]
    (copies / "train-0.tar").write_text("cut")
    (shared / "train-1.tar").write_text("train-X.tar")  # of the same size
    os.utime(shared / "train-1.tar", (4e9, 4e9))
    assert "2 of 2 files copied" in stage(tmp_path, pattern)[1]
    assert (copies / "train-0.tar").read_text() == "train-0.tar"
    assert (copies / "train-1.tar").read_text() == "train-X.tar"


def test_staging_that_cannot_work_ends_the_job_with_a_reason(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.tar").touch()
    assert stage(tmp_path, f"{tmp_path}/none-*.tar")[0] == 1
    assert "there is no file" in stage(tmp_path, f"{tmp_path}/a/one.tar", f"{tmp_path}/none-*.tar")[1]
    status, said = stage(tmp_path, f"{tmp_path}/a/one.tar", f"{tmp_path}/b/one.tar")
    assert (status, "several files of one name: one.tar" in said) == (1, True)
    (tmp_path / "a/one.tar").write_text("eleven byte")
    (tmp_path / "bin/df").write_text("#!/bin/sh\necho Avail; echo 10\n")
    (tmp_path / "bin/df").chmod(0o755)
    status, said = stage(tmp_path, f"{tmp_path}/a/one.tar")
    assert (status, "staging needs 11 bytes" in said, "which has 10" in said) == (1, True, True)
    assert list((tmp_path / "own disk/shards").iterdir()) == []


def test_a_sweep_of_more_runs_than_an_array_may_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in (("sbatch", "exit 9"), ("scontrol", "echo 'MaxArraySize            = 2'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sweep = write_sweep(tmp_path / "sweep.yaml", {"name": "a"}, {"name": "b"}, {"name": "c"})
    assert main(["--gpus=1", sweep, f"--run-folder={tmp_path}/run", "--", "fit", *MODEL]) == 1
    assert "the sweep has 3 runs, and this Slurm takes 2 tasks" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_start_records_commit_changes_hosts_versions_and_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dry-run", "--run-folder=run", "--", "fit", *MODEL]) == 0
    script = capsys.readouterr().out.replace(f"#SBATCH --chdir={ROOT}", "")
    programs = {
        "srun": "exit 1",
        "scontrol": "echo n1; echo n2",
        "nvidia-smi": "echo NVIDIA H100, 570.1, 80 GiB",
        "python": "echo torch==2.13.0; echo tqdm==4",
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("old\n")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-qm", "first"]):
        subprocess.run([*run, *command], cwd=tmp_path, check=True)
    (tmp_path / "code.py").write_text("new\n")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    environment["SLURM_JOB_NODELIST"] = "n[1-2]"
    log = subprocess.run(["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    record = (tmp_path / "run/starts/7.2.txt").read_text()
    assert record in log
    for said in (
        f"commit: {commit}",
        "start 2 of job 7, 20",
        "nodes: n1 n2",
        "changed:  M code.py",
        "H100",
        "torch==2",
    ):
        assert said in record
    assert "-old\n+new\n" in (tmp_path / "run/starts/7.2.diff").read_text()
    assert (tmp_path / "run/starts/7.2.packages.txt").read_text() == "torch==2.13.0\ntqdm==4\n"
