"""The options of a job: its resources, its environment, and how it is stopped. Fields are command-line options."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_modules.submit.staging import Stage

TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
SIGNAL = re.compile(r"(USR1|TERM)@\d+")
NAME = re.compile(r"\w[\w.=+-]*")


@dataclass(frozen=True)
class Resources:
    """The resources that a job requests.

    Args:
        nodes: Number of nodes.
        gpus: Number of GPUs per node, with one process each; 0 = one process per node, on the CPU.
        time: Time limit in Slurm's format: MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS.
        cpus_per_task: Number of CPUs per process, for its data workers too.
        memory: Memory per node, such as 500G; 0 = all.
        account: Account that is charged.
        partition: Partition (queue); the site's default if not given.
        qos: Quality of service.
        constraint: Features that nodes must have.
        gpu_option: Option of sbatch that requests GPUs; some sites need --gres=gpu:a100:{gpus}.
        sbatch: Further options of sbatch.

    Raises:
        ValueError: A number is not positive, or a text is not in Slurm's format.
    """

    nodes: int = 1
    gpus: int = 8
    time: str | int = "24:00:00"
    cpus_per_task: int | None = None
    memory: str | int | None = None
    account: str | int | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_option: str = "--gpus-per-node={gpus}"
    sbatch: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus < 0 or (self.cpus_per_task is not None and self.cpus_per_task < 1):
            raise ValueError(
                f"nodes and cpus_per_task must be positive and gpus not negative, got nodes {self.nodes}, "
                f"cpus_per_task {self.cpus_per_task}, gpus {self.gpus}"
            )
        if not isinstance(self.time, str):
            raise ValueError(f'time is the number {self.time}: YAML reads 24:00:00 as one; quote it, "24:00:00"')
        if not TIME.fullmatch(self.time) or not re.search("[1-9]", self.time):
            raise ValueError(f"time '{self.time}' is not a time limit; give HOURS:MINUTES:SECONDS or DAYS-HOURS")
        if "{gpus}" not in self.gpu_option:
            raise ValueError(f"gpu_option '{self.gpu_option}' must contain {{gpus}}, which is replaced by the number")
        _check_options("sbatch", self.sbatch)

    @property
    def seconds(self) -> int:
        """The time limit, in seconds."""
        days, _, rest = str(self.time).rpartition("-")
        numbers = [int(number) for number in rest.split(":")]
        # A single number means minutes, or after days hours.
        units = (3600, 60, 1) if days or len(numbers) == 3 else (60, 1)
        return int(days or 0) * 86400 + sum(unit * number for unit, number in zip(units, numbers, strict=False))

    @property
    def tasks_per_node(self) -> int:
        """Number of processes per node."""
        return max(1, self.gpus)

    def options(self) -> list[str]:
        """The options of sbatch."""
        named = {
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.memory,
            "time": self.time,
            "account": self.account,
            "partition": self.partition,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        given = [f"--{name}={value}" for name, value in named.items() if value is not None]
        return given + ([self.gpu_option.format(gpus=self.gpus)] if self.gpus else []) + self.sbatch


@dataclass(frozen=True)
class Container:
    """The container of the processes. They start in the working directory, which is mounted at the same path.

    Args:
        image: File or name of the image.
        program: Program that starts it: ``pyxis`` (plugin of srun, with enroot) or ``apptainer``.
        mounts: Further folders to mount, as HOST:INSIDE.
        options: Further options of srun (pyxis) or of ``apptainer exec``.
    """

    image: str
    program: Literal["pyxis", "apptainer"] = "pyxis"
    mounts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrong = [mount for mount in self.mounts if mount.count(":") not in (1, 2) or "," in mount]
        if wrong:
            raise ValueError(f"container.mounts must be HOST:INSIDE or HOST:INSIDE:OPTION, got {wrong}")
        _check_options("container.options", self.options)


@dataclass(frozen=True)
class JobEnvironment:
    """The environment of the processes.

    Args:
        setup: Shell lines that run first, on the job's first node, such as "module load" and "source .../activate".
            Variables that they export are set for all processes.
        variables: Environment variables.
        container: Container of the processes; the setup runs outside it.
        python: Python interpreter, inside the container if there is one.
        interface: Network interface for NCCL and Gloo, if they choose the wrong one.
        srun: Further options of srun, such as --cpu-bind=cores.
        stage: Files that every node copies to its own disk first.

    Raises:
        ValueError: The name of a variable is invalid, or an option does not start with a dash.
    """

    setup: str = ""
    variables: dict[str, str | int] = field(default_factory=dict)
    container: Container | None = None
    python: str = "python"
    interface: str | None = None
    srun: list[str] = field(default_factory=list)
    stage: Stage | None = None

    def __post_init__(self) -> None:
        wrong = [name for name in self.variables if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)]
        if wrong:
            raise ValueError(f"variables {wrong} cannot be exported: names are letters, digits and underscores")
        _check_options("srun", self.srun)


@dataclass(frozen=True)
class Stopping:
    """How a job is stopped at its time limit or on preemption.

    Args:
        signal: Signal, and how many seconds before the time limit Slurm sends it; null for none. The time must suffice
            for two steps, a validation and a checkpoint.
        requeue: Queue the job again after it was stopped or preempted, or a node failed. Some sites forbid it.

    Raises:
        ValueError: Training does not handle this signal.
    """

    signal: str | None = "USR1@120"
    requeue: bool = True

    @property
    def seconds_before(self) -> int:
        """Seconds between the signal and the time limit; 0 without a signal."""
        return 0 if self.signal is None else int(self.signal.split("@")[1])

    def __post_init__(self) -> None:
        if self.signal is not None and not SIGNAL.fullmatch(self.signal):
            raise ValueError(f"signal '{self.signal}' must be USR1@SECONDS or TERM@SECONDS, which training handles")


@dataclass(frozen=True)
class Arm:
    """One run of a sweep.

    Args:
        name: Name of its run folder within the sweep's folder.
        configs: Config files, merged over those of the command line.
        options: Further options, as keys and values.

    Raises:
        ValueError: The name is not valid for a folder.
    """

    name: str
    configs: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' cannot name an arm: use letters, digits and . _ = + -")


def _check_options(name: str, options: list[str]) -> None:
    wrong = [option for option in options if not option.startswith("-") or "\n" in option]
    if wrong:
        raise ValueError(f"{name} takes options such as --exclusive, one each, got {wrong}")
