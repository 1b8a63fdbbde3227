"""Reads the command lines of a job's runs as ``train.py`` will, before the job waits in the queue."""

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
"""A variable of the environment in an option or a config file, as OmegaConf writes it."""


def read_command_lines(lines: Mapping[str, Sequence[str]], root: Path, configs: Sequence[str]) -> dict[str, Any]:
    """Parse every run's command line with the parser of ``train.py``.

    A variable that only the job has (``${oc.env:SLURM_TMPDIR}``) is read as the text ``$SLURM_TMPDIR``.

    Args:
        lines: Command line of each run, by its name; one run that is no sweep's has the name "".
        root: Folder of ``train.py``, the working directory.
        configs: All config files that they name.

    Returns:
        Settings of each run.

    Raises:
        ValueError: Some are wrong; the message has the errors of all.
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
    """Hold what a training batch is a multiple of against the number of processes.

    Args:
        settings: Settings of each run, by its name.
        resources: Nodes and GPUs.

    Raises:
        ValueError: A batch cannot be split evenly; the message names all such runs.
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
    """Let the variables that the texts name be there, with their own names as values where they are not set."""
    named = {name for text in texts for name in JOB_VARIABLE.findall(text)}
    missing = sorted(named - set(os.environ))
    os.environ.update({name: f"${name}" for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
