"""Reads the YAML file of a sweep."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from apps.commands import ROOT
from benchmarks.ablation.tasks import TASKS


class Arm(NamedTuple):
    """One design to compare."""

    name: str
    configs: tuple[str, ...] = ()  # that make it out of the sweep's configs, in order
    settings: Mapping[str, Any] = {}  # over them, by dotted name


class Budget(NamedTuple):
    """What an arm may use on the longest held-out videos; the report marks who uses more. None: not bounded."""

    visual_tokens: int | None = None
    state_kib: int | None = None


class Sweep(NamedTuple):
    """What is compared; see ``benchmarks/ablation/quickstart.yaml`` for the form of the file."""

    file: Path
    heading: str  # of its section on the results page
    task: str  # of ``TASKS``
    data: Path  # folder with the task's ``features/`` and ``language_model/``
    runs: Path  # folder that receives the runs
    configs: tuple[str, ...]  # that all arms begin with
    settings: Mapping[str, Any]  # of all arms, by dotted name
    arms: Mapping[str, Arm]
    reference: str  # arm that every other one is tested against
    seeds: tuple[int, ...] = (0,)
    jobs: int = 2  # runs at the same time, of one thread each
    hours: float | None = None  # after which no further run begins
    budget: Budget = Budget()
    left_out: Mapping[str, str] = {}  # arms that cannot run on this task, with the reason

    @property
    def steps(self) -> int:
        """Optimizer steps of every run."""
        return int(self.settings["trainer.max_steps"])


_KEYS = {"set": "settings"}  # name in the file -> field
_REQUIRED: dict[str, type] = {
    "heading": str,
    "task": str,
    "data": str,
    "runs": str,
    "configs": list,
    "set": dict,
    "arms": dict,
    "reference": str,
}
_OPTIONAL: dict[str, type] = {"seeds": list, "jobs": int, "hours": float, "budget": dict, "left_out": dict}
_FORMS = {
    str: "a text",
    list: "a list with at least one entry",
    dict: "a mapping",
    int: "a whole number from 1",
    float: "a number",
}


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep.

    Args:
        path: The YAML file. Paths in it are relative to the project's root.

    Raises:
        FileNotFoundError: The file, or a config that it names, is not there.
        ValueError: A key is unknown or missing, a value has another form, or the reference is no arm.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no sweep {path}; benchmarks/ablation/quickstart.yaml is one")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    _check_keys(content, (*_REQUIRED, *_OPTIONAL), str(path))
    if missing := [key for key in _REQUIRED if key not in content]:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    for key, value in content.items():
        _check_form(value, {**_REQUIRED, **_OPTIONAL}[key], f"{path}: {key}")
    if content["task"] not in TASKS:
        raise ValueError(f"{path}: there is no task {content['task']!r}; choose one of {', '.join(TASKS)}")
    budget = content.get("budget", {})
    _check_keys(budget, Budget._fields, f"{path}: budget")
    arms = {name: _arm(path, name, arm or {}) for name, arm in content["arms"].items()}
    if content["reference"] not in arms:
        raise ValueError(f"{path}: the reference {content['reference']!r} is no arm; there are {', '.join(arms)}")
    if "trainer.max_steps" not in content["set"]:
        raise ValueError(f"{path}: set has no trainer.max_steps, so arms could have unequally many steps")
    values = {_KEYS.get(key, key): value for key, value in content.items()}
    values |= {"data": Path(content["data"]), "runs": Path(content["runs"]), "configs": tuple(content["configs"])}
    values |= {"arms": arms, "budget": Budget(**budget), "seeds": tuple(content.get("seeds", (0,)))}
    sweep = Sweep(path, **values)
    _check_files(sweep)
    return sweep


def _arm(path: Path, name: str, content: Any) -> Arm:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: the arm {name} is {content!r}; write `{{configs: [...], set: {{...}}}}`")
    _check_keys(content, ("configs", "set"), f"{path}: the arm {name}")
    _check_form(content.get("set", {}), dict, f"{path}: the arm {name}: set")
    if not isinstance(content.get("configs", []), list):
        raise ValueError(f"{path}: the arm {name}: configs is {content['configs']!r}; write a list of files")
    return Arm(name, tuple(content.get("configs", ())), content.get("set", {}))


def _check_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping with {', '.join(known)}")
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"do you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where} has no key {key!r}: {advice}")


def _check_form(value: Any, form: type, where: str) -> None:
    fits = isinstance(value, int | float) if form is float else isinstance(value, form)
    if not fits or isinstance(value, bool) or (form is list and not value) or (form is int and value < 1):
        raise ValueError(f"{where} is {value!r}; write {_FORMS[form]}")


def _check_files(sweep: Sweep) -> None:
    for name in (*sweep.configs, *(config for arm in sweep.arms.values() for config in arm.configs)):
        if not (ROOT / name).is_file():
            raise FileNotFoundError(f"{sweep.file} names {name}, which is not there")
