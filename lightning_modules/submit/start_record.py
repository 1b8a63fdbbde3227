"""Records commit, changes, nodes and package versions at every start of a job, in its log and in the run folder."""

from shlex import quote

from lightning_modules.submit.job_settings import JobEnvironment

PACKAGES = (
    "import importlib.metadata as m, platform; print('python==' + platform.python_version()); "
    "print(*sorted(d.metadata['Name'] + '==' + d.version for d in m.distributions()), sep='\\n')"
)

RECORD = """\
# What runs here. The code may change between two starts of a job.
start=$run_folder/starts/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
mkdir -p "$run_folder/starts"
PACKAGES
{
    echo "start ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID, $(date --iso-8601=seconds)"
    echo "nodes: $(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd ' ')"
    echo "commit: $(git rev-parse HEAD 2> /dev/null || echo none, the folder is no git repository)"
    git status --short 2> /dev/null | sed 's/^/changed: /'
    SHOWN
} | tee "$start.txt"
git diff HEAD > "$start.diff" 2> /dev/null
"""


GPUS = "nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader"


def recording(environment: JobEnvironment, *, has_gpus: bool) -> str:
    """Write the lines of the job script that record commit, changes, nodes, versions and date.

    Args:
        environment: Names the interpreter whose packages are listed, or the container, whose image is recorded instead.
        has_gpus: Whether to list GPUs.

    Returns:
        Lines of bash.
    """
    if environment.container is not None:
        packages, shown = "", f"echo container: {quote(environment.container.image)}"
    else:
        packages = f'{quote(environment.python)} -c {quote(PACKAGES)} > "$start.packages.txt"\n'
        shown = "grep -iE '^(python|torch|lightning|transformers|deepspeed)==' \"$start.packages.txt\" | paste -sd ' '"
    lines = [shown, *([GPUS] if has_gpus else [])]
    return RECORD.replace("PACKAGES\n", packages).replace("SHOWN", "\n    ".join(lines))
