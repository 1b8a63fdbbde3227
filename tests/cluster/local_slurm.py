"""A Slurm of two virtual nodes on this host, started in a folder of its own and stopped for good."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credentials of its first start are void: seconds here, minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Look for jobs to start every second, not every minute.
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Take the nodes' sizes from here and not from the host: both are this host.
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=10 State=UP
"""


class LocalSlurm:
    """Slurm's commands, against the cluster in a folder.

    Args:
        folder: Its configuration, state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and give what it prints."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{command} failed: {result.stderr}"
        return result.stdout

    def state(self, job: str) -> str:
        """State of a job, such as RUNNING; of a job with a field per line, all of ``scontrol show job``."""
        shown = dict(part.split("=", 1) for part in self.run("scontrol", "show", "job", job).split() if "=" in part)
        return shown["JobState"]

    def wait_for_state(self, job: str, *states: str, timeout: float = 60.0) -> str:
        """Wait until a job is in one of the states."""
        return wait_for(lambda: (state := self.state(job)) in states and state, f"{job} in {states}", timeout)

    def processes(self) -> list[int]:
        """The daemons that run."""
        running = []
        for path in self.folder.glob("*.pid"):
            with contextlib.suppress(ValueError, FileNotFoundError, ProcessLookupError):
                number = int(path.read_text())
                os.kill(number, 0)
                running.append(number)
        return running


@contextlib.contextmanager
def local_slurm(folder: Path) -> Iterator[LocalSlurm]:
    """Start the cluster; at the end cancel all jobs and stop every daemon.

    Args:
        folder: A short path: it holds a socket.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, (
        f"{missing} are not on PATH: run tests/cluster/install_slurm as root, or leave these tests out with "
        "-m 'slow and not slurm'"
    )
    cluster = LocalSlurm(folder)
    (folder / "state").mkdir()
    for node in NODES:
        (folder / f"spool.{node}").mkdir()
    controller, first, second = _free_ports(3)
    config = CONFIG.format(folder=folder, user=getpass.getuser(), controller=controller, first=first, second=second)
    (folder / "slurm.conf").write_text(config)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    try:
        cluster.run("munged", "--force", *(f"--{name}={folder}/munge.{ending}" for name, ending in munge.items()))
        cluster.run("slurmctld", "-f", str(folder / "slurm.conf"))
        for node in NODES:
            cluster.run("slurmd", "-f", str(folder / "slurm.conf"), "-N", node)
        wait_for(lambda: cluster.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", "two idle nodes", 30)
        yield cluster
    finally:
        _stop(cluster)


def wait_for(condition: Callable[[], Any], what: str, timeout: float) -> Any:
    """Wait until something is so.

    Args:
        condition: Gives something true as soon as it is.
        what: What is waited for, for the message.
        timeout: Seconds.

    Returns:
        What the condition gave.
    """
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {timeout:g} s for {what}"
        time.sleep(0.2)
    return found


def _stop(cluster: LocalSlurm) -> None:
    with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
        cluster.run("scancel", f"--user={getpass.getuser()}")
        wait_for(lambda: not cluster.run("squeue", "-h").strip(), "jobs to end", 30)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in cluster.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not cluster.processes(), "daemons to end", 10)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
