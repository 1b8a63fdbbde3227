import re
import shlex
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_modules.submit.__main__ import main
from lightning_modules.submit.job_settings import Resources

ROOT = Path(__file__).resolve().parents[3]
Render = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands in these tests are not complete commands of train.py; test_submit_checks.py has those."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lightning_modules.submit.__main__._check_runs", lambda job, evaluate_after: {})


@pytest.fixture
def render(capsys: pytest.CaptureFixture[str]) -> Render:
    """Renders a job script, and has bash read it."""

    def dry_run(*options: str, arguments: tuple[str, ...] = ("fit", "-c", "configs/base.yaml")) -> str:
        assert main([*options, "--dry-run", "--", *arguments]) == 0
        script = capsys.readouterr().out
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        return script

    return dry_run


def options_of(script: str) -> dict[str, str]:
    """The options of sbatch in a script, name -> value."""
    pairs = [shlex.split(line)[0].partition("=") for line in re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)]
    names = [name for name, _, _ in pairs]
    assert len(set(names)) == len(names)
    return {name.removeprefix("--"): value for name, _, value in pairs}


def words_of(script: str, start: str) -> list[str]:
    """The words, as bash reads them, of the command whose line has this beginning."""
    (text,) = re.findall(rf"^{start}(.*?[^\\])$", script, re.MULTILINE | re.DOTALL)
    return shlex.split(text.replace("\\\n", " "))


def run_with(script: str, tmp_path: Path, **variables: str) -> list[str]:
    """Run a script with stand-ins for Slurm's commands; return the arguments of srun."""
    programs = {
        "srun": 'printf "%s\\0" "$MASTER_ADDR" "$MASTER_PORT" "$@" > "$SEEN"; exit 1',
        "scontrol": "[[ $2 == node ]] && echo ' NodeAddr=10.0.0.7 X=' || printf 'no-such-host.invalid\\nother\\n'",
        "module": "exit 0",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SEEN": f"{tmp_path}/seen", "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "n[1-2]", **variables,
    }  # fmt: skip
    result = subprocess.run(["bash"], input=script, text=True, env=environment, cwd=tmp_path, capture_output=True)
    assert result.returncode == 1, result.stderr
    return (tmp_path / "seen").read_text().split("\0")[:-1]


def test_a_job_has_one_process_for_every_gpu(render: Render) -> None:
    script = render("--nodes=4", "--gpus=8", "--time=24:00:00", "--cpus-per-task=12")
    options = options_of(script)
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("4", "8", "8")
    assert (options["time"], options["cpus-per-task"]) == ("24:00:00", "12")
    assert options["chdir"] == str(ROOT)
    assert options["output"] == f"{ROOT}/runs/fit/slurm-%j.out"
    assert {"requeue", "open-mode", "signal"} <= set(options)
    assert "--cpus-per-task=12" in words_of(script, "srun ")  # which srun does not take from the job


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("2:30", 150), ("1:00:05", 3605), ("2-3", 183600), ("1-02:30", 95400), ("1-00:00:01", 86401)],
)
def test_time_limits_are_read_as_slurm_reads_them(time: str, seconds: int) -> None:
    assert Resources(time=time).seconds == seconds


def test_on_the_cpu_a_node_has_one_process_and_no_gpu_is_asked_for(render: Render) -> None:
    script = render("--nodes=2", "--gpus=0")
    assert options_of(script)["ntasks-per-node"] == "1"
    assert "gpu" not in script


def test_the_command_gets_every_argument_as_it_was(render: Render, tmp_path: Path) -> None:
    awkward = ("--data.tokenizer", 'a "b" $HOME', "--x", "it's `date` \\", "--y", "two\nlines", "--z", "")
    script = render(
        "--python=my python", "--nodes=2", "--gpus=4", arguments=("fit", "-c", "configs/base.yaml", *awkward)
    )
    address, port, *words = run_with(script, tmp_path)
    assert words == [
        "--wait=60", "--label", "my python", "train.py", "fit", "-c", "configs/base.yaml", *awkward,
        "--run_folder", "runs/fit", "--trainer.num_nodes", "2", "--trainer.devices", "4",
    ]  # fmt: skip
    assert address == "10.0.0.7"  # of a name that the resolver does not know
    assert 10000 <= int(port) < 30000


@pytest.mark.parametrize("task", [0, 1, 2])
def test_each_task_of_a_sweep_is_its_own_run(render: Render, tmp_path: Path, task: int) -> None:
    script = render("--sweep=configs/cluster/sweep.yaml", "--parallel=2", "--run-folder=runs/my sweep", "--name=s")
    assert options_of(script)["array"] == "0-2%2"
    assert options_of(script)["output"].endswith("slurm-%A_%a.out")
    words = run_with(script, tmp_path, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_JOB_ID="9")
    arm = yaml.safe_load((ROOT / "configs/cluster/sweep.yaml").read_text())[task]
    assert words[words.index("--run_folder") + 1] == f"runs/my sweep/{arm['name']}"
    assert [words[place + 1] for place, word in enumerate(words) if word == "-c"] == [
        "configs/base.yaml", *arm.get("configs", []),
    ]  # fmt: skip
    for key, value in arm.get("options", {}).items():
        assert yaml.safe_load(words[words.index(f"--{key}") + 1]) == value


def test_setup_and_variables_come_before_the_command(render: Render, tmp_path: Path) -> None:
    setup = "export GREETING=hello\nexport FAREWELL=bye"
    script = render(f"--setup={setup}", "--variables={NAME: 'a $b'}", "--interface=ib0", "--gpus=1")
    shown = script.replace('"${command[@]}" &', 'env "$GREETING" "$FAREWELL" "$NAME" "$NCCL_SOCKET_IFNAME" &')
    assert run_with(shown, tmp_path)[-4:] == ["hello", "bye", "a $b", "ib0"]


def test_a_setup_that_fails_keeps_the_job_from_starting(render: Render, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_with(render("--setup=exit 3", "--gpus=1"), tmp_path)
    with pytest.raises(FileNotFoundError):
        run_with(render("--setup=false", "--gpus=1"), tmp_path)
    assert not (tmp_path / "seen").exists()


def test_container_of_pyxis_is_srun_s_affair(render: Render, tmp_path: Path) -> None:
    container = ["--container.image=nvcr.io#nvidia/pytorch:26.01-py3", '--container.mounts=["/data:/data:ro"]']
    words = run_with(render(*container, "--container.options=[--container-name=train]"), tmp_path)
    assert {
        "--container-image=nvcr.io#nvidia/pytorch:26.01-py3", f"--container-mounts={ROOT}:{ROOT},/data:/data:ro",
        f"--container-workdir={ROOT}", "--container-name=train",
    } <= set(words[: words.index("python")])  # fmt: skip


@pytest.mark.parametrize(("gpus", "flags"), [(8, ["--nv"]), (0, [])])
def test_apptainer_starts_the_interpreter_in_the_image(
    render: Render, tmp_path: Path, gpus: int, flags: list[str]
) -> None:
    container = ["--container.image=/images/my image.sif", "--container.program=apptainer", f"--gpus={gpus}"]
    words = run_with(render(*container), tmp_path)
    start = words.index("apptainer")
    assert words[start : words.index("train.py")] == [
        "apptainer", "exec", *flags, f"--bind={ROOT}:{ROOT}", f"--pwd={ROOT}", "/images/my image.sif", "python",
    ]  # fmt: skip


def test_site_defaults_come_from_a_file_and_the_command_line_wins(render: Render) -> None:
    site = yaml.safe_load((ROOT / "configs/cluster/example.yaml").read_text())
    options = options_of(render("--cluster=configs/cluster/example.yaml", "--partition=debug", "--nodes=2"))
    assert options["account"] == site["account"]
    assert options["mem"] == "0"
    assert options["partition"] == "debug" != site["partition"]
    assert options["nodes"] == "2"


def test_the_site_says_how_gpus_are_asked_for_and_what_else(render: Render) -> None:
    options = options_of(render("--gpu-option=--gres=gpu:a100:{gpus}", "--sbatch=[--exclusive, --comment=a b]"))
    assert options["gres"] == "gpu:a100:8"
    assert "exclusive" in options
    assert options["comment"] == "a b"
    assert "gpus-per-node" not in options


def test_what_may_not_queue_again_says_so_and_does_not_try(render: Render) -> None:
    script = render("--requeue=false", "--signal=null")
    assert "no-requeue" in options_of(script)
    assert "signal" not in options_of(script)
    assert "scontrol requeue" not in script


def test_only_training_can_be_finished(render: Render) -> None:
    assert "finished" not in render(arguments=("validate", "-c", "configs/base.yaml"))


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ([], ["fit", "-c", "configs/none.yaml"], "there is no config configs/none.yaml"),
        ([], ["fit", "--config=none.yaml"], "there is no config none.yaml"),
        ([], [], r"write the command line of train.py after --: fit\|validate"),
        ([], ["train"], "got \\['train'\\]"),
        ([], ["fit", "--trainer.devices=4"], "'--trainer.devices=4'.* are set by --run-folder, --nodes and --gpus"),
        (["--time=noon"], ["fit"], "time 'noon' is not a time limit"),
        (["--time=00:00:00"], ["fit"], "time '00:00:00' is not a time limit"),
        (["--nodes=0"], ["fit"], "must be positive"),
        (["--nodes=many"], ["fit"], "nodes"),
        (["--signal=INT@60"], ["fit"], "must be USR1@SECONDS"),
        (["--signal=USR1@300", "--time=00:05:00"], ["fit"], "would stop the job every time as soon as it starts"),
        (["--gpu-option=--gpus=8"], ["fit"], "must contain {gpus}"),
        (["--sbatch=[exclusive]"], ["fit"], "sbatch takes options such as --exclusive"),
        (["--variables={A-B: 1}"], ["fit"], r"\['A-B'\] cannot be exported"),
        (["--container.image=x", "--container.mounts=[/data]"], ["fit"], "must be HOST:INSIDE"),
        (["--container.image=x", "--container.program=docker"], ["fit"], "program"),
        (["--name=bash"], ["fit"], "cannot be named 'bash'"),
        (["--run-folder=runs/a b"], ["fit"], "cannot be named 'a b'"),
        (["--chain=0"], ["fit"], "must be positive"),
        (["--parallel=2"], ["fit"], "there is none"),
        (["--sweep=none.yaml"], ["fit"], "there is no sweep file none.yaml"),
        (["--sweep=configs/base.yaml"], ["fit"], "must be a list of runs .* got a dict"),
        (["--cluster=none.yaml"], ["fit"], "none.yaml"),
        (["--nodse=2"], ["fit"], "nodse"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_submitted(
    options: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*options, "--dry-run", "--", *arguments])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "must differ"),
        ([{"name": "../a"}], "'../a' cannot name an arm"),
        ([{"name": "a", "config": ["x"]}], "config"),
        ([{"name": "a", "configs": ["none.yaml"]}], "there is no config none.yaml"),
        ([{"name": "a", "options": {"run_folder": "x"}}], "set by --run-folder"),
        ([], "must be a list of runs"),
    ],
)
def test_a_wrong_sweep_is_named(
    sweep: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with pytest.raises(SystemExit):
        main([f"--sweep={tmp_path}/sweep.yaml", "--dry-run", "--", "fit"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("patition: gpu", "patition"), ("time: 24:00:00", "quote it")])
def test_a_wrong_cluster_file_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main([f"--cluster={tmp_path}/site.yaml", "--dry-run", "--", "fit"])
    assert message in capsys.readouterr().err


def test_without_slurm_the_message_says_where_to_submit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([f"--run-folder={tmp_path}/run", "--", "fit"]) == 1
    assert "no sbatch on PATH" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_submitted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "finished").touch()
    assert main([f"--run-folder={tmp_path}/run", "--", "fit"]) == 1
    assert "is finished" in capsys.readouterr().err
