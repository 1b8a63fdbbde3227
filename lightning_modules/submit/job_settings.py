"""What a job asks of Slurm, in what environment it runs, and when it stops. The fields are the options."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_modules.submit.staging import Stage

TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
SIGNAL = re.compile(r"(USR1|TERM)@\d+")
NAME = re.compile(r"\w[\w.=+-]*")


@dataclass(frozen=True)
class Resources:
    """What a job asks for.

    Args:
        nodes: Nodes.
        gpus: GPUs of each node, with one process each; 0 = one process a node, on the CPU.
        time: Time limit as Slurm has it: MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS.
        cpus_per_task: CPUs of each process, its data workers' included.
        memory: Memory of each node, such as 500G; 0 = all of it.
        account: Whose hours are used.
        partition: Where the job queues; the site's default if not given.
        qos: Quality of service.
        constraint: Features that nodes must have.
        gpu_option: How the site wants GPUs asked for; some take only --gres=gpu:a100:{gpus}.
        sbatch: Further options of sbatch.

    Raises:
        ValueError: A number is not positive, or a text is not one that Slurm understands.
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
            raise ValueError(f"gpu_option '{self.gpu_option}' must say where the number goes, with {{gpus}}")
        _check_options("sbatch", self.sbatch)

    @property
    def seconds(self) -> int:
        """The time limit."""
        days, _, rest = str(self.time).rpartition("-")
        numbers = [int(number) for number in rest.split(":")]
        units = (3600, 60, 1) if days or len(numbers) == 3 else (60, 1)  # a lone number is minutes, behind days hours
        return int(days or 0) * 86400 + sum(unit * number for unit, number in zip(units, numbers, strict=False))

    @property
    def tasks_per_node(self) -> int:
        """Processes of each node."""
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
    """In what container the processes run. The working directory is mounted at its own path, and is where they start.

    Args:
        image: File, or name that the program takes.
        program: What starts it: ``pyxis`` (srun's plugin, over enroot) or ``apptainer``.
        mounts: Further folders, HOST:INSIDE.
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
    """What the processes find.

    Args:
        setup: Shell lines that run first on the job's first node, such as "module load" and "source .../activate";
            what they export reaches all processes.
        variables: Environment variables.
        container: Container of the processes; the setup runs outside it.
        python: Interpreter, inside the container where there is one.
        interface: Network interface of NCCL and Gloo, where they choose the wrong one.
        srun: Further options of srun, such as --cpu-bind=cores.
        stage: What every node copies to its own disk first.

    Raises:
        ValueError: A variable's name is not one of the shell, or an option is not one.
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
    """What happens when the time is up or the machine is needed.

    Args:
        signal: Signal and the seconds before the time limit at which Slurm sends it; null for none. Two steps, a
            validation and the writing of a checkpoint must fit in.
        requeue: Have the job queue again when it was stopped, preempted, or a node failed. Sites may forbid it.

    Raises:
        ValueError: The signal is none that training listens to.
    """

    signal: str | None = "USR1@120"
    requeue: bool = True

    @property
    def seconds_before(self) -> int:
        """How long before the time limit the signal comes; 0 for none."""
        return 0 if self.signal is None else int(self.signal.split("@")[1])

    def __post_init__(self) -> None:
        if self.signal is not None and not SIGNAL.fullmatch(self.signal):
            raise ValueError(f"signal '{self.signal}' must be USR1@SECONDS or TERM@SECONDS, which training listens to")


@dataclass(frozen=True)
class Arm:
    """One run of a sweep.

    Args:
        name: Name of its run folder in the sweep's.
        configs: Files merged over those of the command line.
        options: Further keys and values.

    Raises:
        ValueError: The name cannot name a folder.
    """

    name: str
    configs: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' cannot name an arm: take letters, digits and . _ = + -")


def _check_options(name: str, options: list[str]) -> None:
    wrong = [option for option in options if not option.startswith("-") or "\n" in option]
    if wrong:
        raise ValueError(f"{name} takes options such as --exclusive, one each, got {wrong}")
