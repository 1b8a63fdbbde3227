"""Writes the job script, in a form that people can read."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from lightning_modules.preemption import EXIT_STATUS
from lightning_modules.submit.job_settings import Arm, Container, JobEnvironment, Resources, Stopping
from lightning_modules.submit.staging import expanded_by_bash, staging
from lightning_modules.submit.start_record import recording

KILLED = 128 + signal.SIGUSR1
"""Exit status that the shell reports for a process that SIGUSR1 ended."""

RENDEZVOUS = """\
# All processes meet at the first node. Where its name is not known to the resolver, Slurm knows its address.
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
if ! getent hosts "$first_node" > /dev/null; then
    first_node=$(scontrol show node "$first_node" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
fi
export MASTER_ADDR=$first_node
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
"""

FINISHED = """\
if [[ -e $run_folder/finished ]]; then
    echo "$run_folder is finished. To train it for longer, remove $run_folder/finished."
    exit 0
fi
"""

WAITING = """\
step=$!
# A signal to this script alone goes on to the processes; wait returns early for it.
trap 'kill -USR1 "$step" 2> /dev/null' USR1
status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do
    status=0
    wait "$step" || status=$?
done
"""


@dataclass(frozen=True)
class Job:
    """A Slurm job for one training run or for a sweep.

    Args:
        name: Name in the queue.
        root: Working directory, absolute.
        run_folder: Folder of the run, relative to ``root``; for a sweep, the parent of the arms' folders.
        arguments: Command line of ``train.py``.
        arms: The runs of a sweep; empty for a single run.
        parallel: Maximum number of arms at once; None for no limit.
        resources: Nodes, GPUs, time and so on.
        environment: The environment of the processes.
        stopping: How the job is stopped.
        evaluated: Shards that each run is evaluated on afterwards, by the arm's name ("" for a single run); may be
            empty.
    """

    name: str
    root: Path
    run_folder: Path
    arguments: Sequence[str]
    arms: Sequence[Arm] = ()
    parallel: int | None = None
    resources: Resources = field(default_factory=Resources)
    environment: JobEnvironment = field(default_factory=JobEnvironment)
    stopping: Stopping = field(default_factory=Stopping)
    evaluated: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The log file, with Slurm's placeholders for the number of the job."""
        return self.root / self.run_folder / ("slurm-%A_%a.out" if self.arms else "slurm-%j.out")

    @property
    def evaluation_log(self) -> Path:
        """The log file of the evaluation."""
        return self.log.with_name(self.log.name.replace("slurm", "evaluation"))


def render(job: Job) -> str:
    """Write the job script.

    Args:
        job: The job.

    Returns:
        A bash script with the options of sbatch.
    """
    stage = job.environment.stage
    sections = [
        _head(_options(job)),
        _run_folder(job, {arm.name: ("of_this_arm", _words(arm_arguments(arm))) for arm in job.arms}),
        FINISHED if job.arguments[0] == "fit" else "",
        _environment_lines(job.environment),
        recording(job.environment, has_gpus=job.resources.gpus > 0),
        staging(stage) if stage is not None else "",
        RENDEZVOUS,
        _command(job),
        _srun(job) + WAITING,
        _ending(job),
    ]
    return "\n".join(section for section in sections if section)


def render_evaluation(job: Job) -> str:
    """Write the script of the job that evaluates the trained models, each on one device.

    Args:
        job: The training job, with the shards to evaluate on.

    Returns:
        A bash script with the options of sbatch.
    """
    shards = {name: [expanded_by_bash(one) for one in each] for name, each in job.evaluated.items()}
    single = "" if job.arms else f"shards=({' '.join(shards[''])})\n"
    command = f'{quote(job.environment.python)} evaluate.py --checkpoint "$checkpoint" --data "${{shards[@]}}"'
    lines = [
        'checkpoint="$run_folder/checkpoints/final.ckpt"',
        "# The best checkpoint, if checkpoint.monitor is set.",
        'best="$run_folder/checkpoints/best.ckpt"',
        '[[ -e $best ]] && checkpoint="$best"',
        f'command=({command} --out "$run_folder/evaluation")',
    ]
    alone = replace(job, resources=replace(job.resources, nodes=1, gpus=min(job.resources.gpus, 1)))
    stage = job.environment.stage
    sections = [
        _head(_options(alone, evaluates=True)),
        _run_folder(job, {name: ("shards", words) for name, words in shards.items()}) + single,
        _environment_lines(job.environment),
        staging(stage) if stage is not None else "",
        "\n".join([*lines, ""]),
        _srun(alone).removesuffix(" &\n") + "\n",
    ]
    return "\n".join(section for section in sections if section)


def _head(options: Sequence[str]) -> str:
    first = "#!/usr/bin/env bash\n# Written by python -m lightning_modules.submit; docs/cluster.md explains it.\n"
    return first + "".join(f"#SBATCH {_word(option)}\n" for option in options)


def _run_folder(job: Job, of_arms: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """Set ``run_folder``; in a sweep, also an array with the arguments of the task's arm."""
    folder = quote(str(job.run_folder))
    if not job.arms:
        return f"run_folder={folder}\n"
    lines = ["case $SLURM_ARRAY_TASK_ID in"]
    for number, arm in enumerate(job.arms):
        array, words = of_arms[arm.name]
        lines += [f"    {number})", f"        arm={quote(arm.name)}", f"        {array}=("]
        lines += [f"            {word}" for word in words]
        lines += ["        )", "        ;;"]
    return "\n".join([*lines, "esac", f"run_folder={folder}/$arm", ""])


def _options(job: Job, *, evaluates: bool = False) -> list[str]:
    stopping = job.stopping
    array = f"--array=0-{len(job.arms) - 1}" + (f"%{job.parallel}" if job.parallel else "")
    signal_option = [f"--signal={stopping.signal}"] if stopping.signal and not evaluates else []
    return [
        f"--job-name={job.name}{'-evaluation' if evaluates else ''}",
        *job.resources.options(),
        *([array] if job.arms else []),
        f"--chdir={job.root}",
        f"--output={job.evaluation_log if evaluates else job.log}",
        "--open-mode=append",  # a requeued job has the same number
        *signal_option,
        "--requeue" if stopping.requeue else "--no-requeue",
    ]


def arm_arguments(arm: Arm) -> list[str]:
    """Command-line arguments of an arm.

    Args:
        arm: The arm.

    Returns:
        Arguments. Values that are not text are written as JSON, which the command line reads as the same values.
    """
    configs = [part for config in arm.configs for part in ("-c", config)]
    values = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in arm.options.items())
    return configs + [part for key, value in values for part in (f"--{key}", value)]


def _environment_lines(environment: JobEnvironment) -> str:
    lines = []
    if environment.setup.strip():
        lines += ["set -e # the job must not start where its setup fails", environment.setup.strip(), "set +e"]
    variables: dict[str, str | int] = dict(environment.variables)
    if environment.interface is not None:
        variables |= {"NCCL_SOCKET_IFNAME": environment.interface, "GLOO_SOCKET_IFNAME": environment.interface}
    lines += [f"export {name}={quote(str(value))}" for name, value in variables.items()]
    return "".join(f"{line}\n" for line in lines)


def _command(job: Job) -> str:
    lines = [
        f"{quote(job.environment.python)} train.py {quote(job.arguments[0])}",
        *_words(job.arguments[1:]),
        *(['"${of_this_arm[@]}"'] if job.arms else []),
        '--run_folder "$run_folder"',
        f"--trainer.num_nodes {job.resources.nodes}",
        f"--trainer.devices {job.resources.tasks_per_node}",
    ]
    return "command=(\n" + "".join(f"    {line}\n" for line in lines) + ")\n"


def _srun(job: Job) -> str:
    container = job.environment.container
    # --wait ends the other ranks when one fails, and gives them time to exit with their own status.
    options = ["--wait=60", "--label", *job.environment.srun]
    if job.resources.cpus_per_task is not None:  # srun does not inherit it from the job
        options.append(f"--cpus-per-task={job.resources.cpus_per_task}")
    inside: list[str] = []
    if container is not None and container.program == "pyxis":
        options += _pyxis(container, job.root)
    elif container is not None:
        inside = _apptainer(container, job.root, has_gpus=job.resources.gpus > 0)
    lines = [*map(quote, options), *_words(inside), '"${command[@]}" &']
    return "srun " + " \\\n    ".join(lines) + "\n"


def _pyxis(container: Container, root: Path) -> list[str]:
    mounts = ",".join([f"{root}:{root}", *container.mounts])
    return [
        f"--container-image={container.image}",
        f"--container-mounts={mounts}",
        f"--container-workdir={root}",
        *container.options,
    ]


def _apptainer(container: Container, root: Path, *, has_gpus: bool) -> list[str]:
    mounts = ",".join([f"{root}:{root}", *container.mounts])
    gpus = ["--nv"] if has_gpus else []
    return ["apptainer", "exec", *gpus, f"--bind={mounts}", f"--pwd={root}", *container.options, container.image]


def _ending(job: Job) -> str:
    lines = []
    if job.arguments[0] == "fit":
        lines += ["if ((status == 0)); then", '    touch "$run_folder/finished"', "fi"]
    if job.stopping.requeue:
        number = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.arms else "$SLURM_JOB_ID"
        lines += [
            f"# {EXIT_STATUS}: training has saved and stopped. {KILLED}: SIGUSR1 came before training could handle it.",
            f"if ((status == {EXIT_STATUS} || status == {KILLED})); then",
            f'    scontrol requeue "{number}"',
            "fi",
        ]
    return "\n".join([*lines, 'exit "$status"', ""])


def _words(arguments: Sequence[str]) -> list[str]:
    """Quoted arguments; an option and its value share a line."""
    lines: list[list[str]] = []
    for argument in arguments:
        if not lines or argument.startswith("-"):
            lines.append([])
        lines[-1].append(quote(argument))
    return [" ".join(line) for line in lines]


def _word(option: str) -> str:
    """An option as sbatch reads it in a script: quoted only if it has spaces or special characters."""
    return quote(option) if any(sign in option for sign in " \t'\"\\#") else option
