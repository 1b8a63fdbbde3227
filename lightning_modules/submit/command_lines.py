"""Checks the command lines of a job's runs with the parser of ``train.py``, before the job is queued."""

import contextlib
import io
import os
import re
import runpy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.submit.job_settings import Resources

JOB_VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")
"""An environment variable in an option or a config file, in OmegaConf's syntax."""


def read_command_lines(lines: Mapping[str, Sequence[str]], root: Path, configs: Sequence[str]) -> dict[str, Any]:
    """Parse every run's command line with the parser of ``train.py``.

    A variable that is set in the job only (``${oc.env:SLURM_TMPDIR}``) gets the value ``$SLURM_TMPDIR``.

    Args:
        lines: Command line of each run, by name; a single run has the name "".
        root: Folder of ``train.py``, the working directory.
        configs: All config files that they name.

    Returns:
        Settings of each run.

    Raises:
        ValueError: Command lines are invalid; the message has the errors of all runs.
    """
    parse = runpy.run_path(str(root / "train.py"), run_name="train")["parse"]
    texts = [*(argument for line in lines.values() for argument in line), *map(_text_of, (root / c for c in configs))]
    settings: dict[str, Any] = {}
    errors: dict[str, list[str]] = defaultdict(list)  # message -> runs
    with _job_variables(texts):
        for name, line in lines.items():
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    settings[name] = parse(line)
            except ValueError as error:
                errors[f"{error}"].append(name)
            except SystemExit:
                errors[said.getvalue().strip().rpartition("error: ")[2]].append(name)
    if errors:
        raise ValueError("train.py would refuse this:\n" + "\n".join(_said(*error) for error in errors.items()))
    return settings


def check_batches(settings: Mapping[str, Any], resources: Resources) -> None:
    """Check that training batches can be divided evenly among the processes.

    Args:
        settings: Settings of each run, by name.
        resources: Nodes and GPUs.

    Raises:
        ValueError: A batch size is not a multiple of the number of processes; the message names all such runs.
    """
    processes = resources.nodes * resources.tasks_per_node
    errors: dict[str, list[str]] = defaultdict(list)
    for name, run in settings.items():
        loading = run.data.loading
        option, size = "batch_size", loading.batch_size
        if size is None and loading.budget is not None:
            option, size = "budget.group_size", loading.budget.group_size
        if size is not None and size % processes:
            errors[f"data.loading.{option} {size} counts the samples of all processes together"].append(name)
    if errors:
        raise ValueError(
            "\n".join(_said(*error) for error in errors.items())
            + f"\nand cannot be split over {resources.nodes} nodes x {resources.tasks_per_node} processes = "
            f"{processes}; choose a multiple of {processes}, or fewer --nodes or --gpus"
        )


def _said(message: str, names: Sequence[str]) -> str:
    return message if list(names) == [""] else f"{', '.join(names)}: {message}"


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@contextlib.contextmanager
def _job_variables(texts: Sequence[str]) -> Iterator[None]:
    """Set the variables that occur in the texts and are not set, with their names as values."""
    named = {name for text in texts for name in JOB_VARIABLE.findall(text)}
    missing = sorted(named - set(os.environ))
    os.environ.update({name: f"${name}" for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
