"""Submits a training run to Slurm: ``python -m lightning_modules.submit --nodes 4 --gpus 8 -- fit -c FILE ...``.

The arguments after ``--`` are the command line of ``train.py``. A job that is stopped resumes by itself; see
docs/cluster.md.
"""

import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentError, HelpFormatter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]  # not in its __all__

from command_errors import run_and_exit
from lightning_modules.console.config_files import named_config_files
from lightning_modules.console.option_spelling import with_hyphens, with_underscores
from lightning_modules.submit.command_lines import check_batches, read_command_lines
from lightning_modules.submit.evaluated_shards import evaluated_shards
from lightning_modules.submit.job_settings import NAME, Arm, Container, JobEnvironment, Resources, Stopping
from lightning_modules.submit.script import Job, arm_arguments, render, render_evaluation
from lightning_modules.submit.staging import Stage

SUBCOMMANDS = ("fit", "validate", "test", "predict")
OWN = ("--run_folder", "--trainer.num_nodes", "--trainer.devices")
GROUPS = (Resources, JobEnvironment, Stopping)
INTERACTIVE = ("bash", "interactive")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    given = list(sys.argv[1:] if args is None else args)
    parser = _parser()
    own, arguments = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = parser.parse_args(with_underscores(own))
    try:
        job = make_job(options, arguments, Path.cwd())
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.dry_run:
        print(render(job), end="")
        if job.evaluated:
            print("\n# The job that evaluates, once training has ended well:\n" + render_evaluation(job), end="")
        return 0
    try:
        submit(job, options.chain, options.after)
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make_job(options: Any, arguments: Sequence[str], root: Path) -> Job:
    """Make a job from the options, and check it before it is queued.

    Args:
        options: The parsed options of this command.
        arguments: Command line of ``train.py``.
        root: Working directory.

    Returns:
        The job.

    Raises:
        ValueError: Options are missing, repeated or contradictory, or the job could not run.
        FileNotFoundError: A config file does not exist.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        raise ValueError(
            f"write the command line of train.py after --: {'|'.join(SUBCOMMANDS)} -c FILE ...; got {arguments}"
        )
    if not (root / "train.py").is_file():
        raise FileNotFoundError(f"{root} has no train.py; run this in the project's folder")
    arms = read_sweep(options.sweep)
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of the sweep's arms must differ, got {names}")
    for line in [arguments, *map(arm_arguments, arms)]:
        _check_arguments(line, root)
    configs = named_config_files(arguments)
    stems = [stem for stem in (Path(config).stem for config in configs) if stem != "base"]
    run_folder = Path(options.run_folder or Path("runs", "-".join(stems) or arguments[0]))
    name = options.name or run_folder.name
    if not NAME.fullmatch(name) or name in INTERACTIVE:
        raise ValueError(
            f"the job cannot be named '{name}': give --name with letters, digits and . _ = + -, but not "
            f"{' or '.join(INTERACTIVE)}, which Lightning takes for a session at a terminal"
        )
    if options.chain < 1 or (options.parallel is not None and options.parallel < 1):
        raise ValueError(f"chain and parallel must be positive, got {options.chain} and {options.parallel}")
    if options.parallel is not None and not arms:
        raise ValueError("--parallel bounds the arms of a --sweep, and there is none")
    resources, stopping = _group(Resources, options), _group(Stopping, options)
    _check_time(resources, stopping)
    job = Job(
        name=name,
        root=root,
        run_folder=run_folder,
        arguments=arguments,
        arms=arms,
        parallel=options.parallel,
        resources=resources,
        environment=_group(JobEnvironment, options),
        stopping=stopping,
    )
    return replace(job, evaluated=_check_runs(job, options.evaluate_after))


def _check_runs(job: Job, evaluate_after: bool | list[str]) -> dict[str, list[str]]:
    """Check every run's command line and batch size. Returns the shards that it is evaluated on."""
    lines = {arm.name: [*job.arguments, *arm_arguments(arm)] for arm in job.arms} or {"": list(job.arguments)}
    configs = dict.fromkeys(config for line in lines.values() for config in named_config_files(line))
    settings = read_command_lines(lines, job.root, list(configs))
    if job.arguments[0] == "fit":
        check_batches(settings, job.resources)
    elif evaluate_after:
        raise ValueError(f"--evaluate-after evaluates what fit has trained, and this is {job.arguments[0]}")
    return evaluated_shards(evaluate_after, settings)


def submit(job: Job, chain: int, after: str | None) -> list[str]:
    """Write the script into the run folder and submit it.

    Args:
        job: What to run.
        chain: Number of jobs; each starts when the previous one has ended, whether it failed or not.
        after: Number of a job that the first one waits for.

    Returns:
        The numbers of the jobs; the last is the evaluation's, if there is one.

    Raises:
        RuntimeError: Slurm rejected the job (with its message), the run is finished, or the sweep has too many runs.
        FileNotFoundError: Slurm is not installed.
    """
    if shutil.which("sbatch") is None:
        raise FileNotFoundError("there is no sbatch on PATH: submit on a login node of the cluster, or give --dry-run")
    folder = job.root / job.run_folder
    runs = [folder / arm.name for arm in job.arms] or [folder]
    if job.arguments[0] == "fit" and all((run / "finished").exists() for run in runs):
        raise RuntimeError(
            f"{job.run_folder} is finished. To train it for longer, remove the file 'finished' in it; for another run, "
            "choose another --run-folder"
        )
    _check_array(len(job.arms))
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "job.sh"
    script.write_text(render(job), encoding="utf-8")
    numbers: list[str] = []
    for _ in range(chain):
        before = numbers[-1] if numbers else after
        numbers.append(_sbatch(script, [f"--dependency=afterany:{before}"] if before else []))
        print(f"job {numbers[-1]}{f' after {before}' if before else ''}, its log: {_numbered(job.log, numbers[-1])}")
    if job.evaluated:
        script = folder / "evaluate.sh"
        script.write_text(render_evaluation(job), encoding="utf-8")
        kind = "aftercorr" if job.arms else "afterok"  # each arm's evaluation waits for that arm only
        number = _sbatch(script, [f"--dependency={kind}:{numbers[-1]}", "--kill-on-invalid-dep=yes"])
        print(f"evaluation {number} after {numbers[-1]}, its log: {_numbered(job.evaluation_log, number)}")
        numbers.append(number)
    return numbers


def _sbatch(script: Path, options: Sequence[str]) -> str:
    command = ["sbatch", "--parsable", *options, str(script)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{result.stderr.strip()}")
    return result.stdout.strip().split(";")[0]  # the name of the cluster may follow


def _numbered(log: Path, number: str) -> str:
    return str(log).replace("%A", number).replace("%j", number)


def _check_array(num_arms: int) -> None:
    """Raise if a sweep has more runs than Slurm allows tasks in an array."""
    if not num_arms:
        return
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    most = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    if most is not None and num_arms > int(most[1]):
        raise RuntimeError(
            f"the sweep has {num_arms} runs, and this Slurm takes {most[1]} tasks in an array (MaxArraySize): divide "
            "the file into several sweeps"
        )


def _check_arguments(arguments: Sequence[str], root: Path) -> None:
    missing = [config for config in named_config_files(arguments) if not (root / config).is_file()]
    if missing:
        raise FileNotFoundError(f"there is no config {', '.join(missing)} (seen from {root})")
    twice = [argument for argument in arguments if argument.split("=")[0] in OWN]
    if twice:
        raise ValueError(f"{twice} are set by --run-folder, --nodes and --gpus before the --")


def _check_time(resources: Resources, stopping: Stopping) -> None:
    if stopping.seconds_before >= resources.seconds:
        raise ValueError(
            f"signal {stopping.signal} would stop the job every time as soon as it starts, with --time {resources.time}"
        )


class _HyphenParser(ArgumentParser):
    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        return with_hyphens(super().format_help(formatter))


def _parser() -> ArgumentParser:
    parser = _HyphenParser(
        prog="python -m lightning_modules.submit",
        usage="%(prog)s [--cluster FILE] [--nodes N] [--gpus N] [--time TIME] [...] -- fit -c FILE ...",
        description="Submit a training run to Slurm. The arguments after -- are the command line of train.py.",
    )
    parser.add_argument("--cluster", action=ActionConfigFile, help="YAML with any of these options: a site's defaults")
    for group in GROUPS:
        parser.add_class_arguments(group)
    parser.add_argument("--name", type=str | None, default=None, help="the job's name; its run folder's by default")
    parser.add_argument(
        "--run_folder", type=str | None, default=None, help="folder of the run (default: runs/NAMES-OF-THE-CONFIGS)"
    )
    parser.add_argument("--sweep", type=str | None, default=None, help="YAML list of runs: name, configs, options")
    parser.add_argument("--parallel", type=int | None, default=None, help="maximum number of the sweep's runs at once")
    parser.add_argument("--chain", type=int, default=1, help="number of jobs; each resumes where the last one stopped")
    parser.add_argument("--after", type=str | None, default=None, help="number of a job to wait for")
    parser.add_argument(
        "--evaluate_after",
        type=bool | list[str],
        default=False,
        help="run evaluate.py after training: true = on the validation sets, or a list of shards",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the job script and submit nothing")
    return parser


def _group(kind: type[Any], parsed: Any) -> Any:
    values = {each.name: parsed[each.name] for each in fields(kind)}
    for name, part in (("container", Container), ("stage", Stage)):
        if values.get(name) is not None:
            values[name] = part(**vars(values[name]))
    return kind(**values)


def read_sweep(path: str | None) -> list[Arm]:
    """Read the runs of a sweep.

    Args:
        path: YAML file with a list of runs; None for no sweep.

    Returns:
        The runs.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a list of runs; the message names the wrong key.
    """
    if path is None:
        return []
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no sweep file {path} (seen from {Path.cwd()})")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--arms", type=list[Arm])
    listed = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{path} must be a list of runs with name, configs and options, got a {type(listed).__name__}")
    try:
        arms = parser.parse_object({"arms": listed}).arms
    except ArgumentError as error:
        raise ValueError(f"{path} must be a list of runs with name, configs and options: {error}") from error
    return [Arm(**vars(arm)) for arm in arms]


if __name__ == "__main__":
    run_and_exit(main)
