"""Explains in one line what is wrong with a setting, and suggests the nearest name."""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import torch

from components.old_pooling_settings import OLD_POOLING_OPTIONS

_KEY = re.compile(r'^Parser key "([^"]+)":\s*')
_GIVEN = re.compile(r"^ *Given value: (.*)$", re.MULTILINE)
_CLASS_PATH = re.compile(r"class_path[=:]? ?'([^']+)'")
_NAMES = {"NoneType": "null", "dict": "a mapping", "list": "a list", "str": "text"}


class SettingsError(ValueError):
    """A setting is wrong; the message is for the user."""


def near_name(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'X'?`` if a known name is similar to the given one, else an empty text."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def explain(message: str, options: Sequence[str], files: Sequence[str] = ()) -> str:
    """Shorten the parser's message to its cause, and suggest similar names.

    Source: the messages are those of jsonargparse 4.53; an unknown one is only put on one line.

    Args:
        message: The parser's message.
        options: Keys of all settings, such as ``trainer.max_steps``.
        files: Config files of the command line, to name the one that has the key.

    Returns:
        One line.
    """
    match = _KEY.match(message)
    key = "" if match is None or match[1] == "config" else f"{match[1]}: "
    text = message[match.end() :] if match else message
    for describe in (_unknown_option, _missing_name, _wrong_class, _failed_class, _wrong_type):
        described = describe(text)
        if described is not None:
            return key + described + _place_of(text, files)
    for pattern in (r"^unrecognized arguments: --([^\s=]+)", r"does not accept option '([^']+)'"):
        unknown = re.search(pattern, text)
        if unknown:
            return f"there is no option {unknown[1]}{_near_key(unknown[1], options)}"
    required = re.search(r"arguments are required: (.*)", text)
    if required:
        keys = re.sub(r"\b(fit|validate|test|predict)\.", "", required[1])
        return f"no config says {keys}; name the files that do with -c (the README lists them)"
    return key + " ".join(text.split())


def explain_trainer(message: str, accelerator: object, devices: object) -> str:
    """Explain what is wrong with the trainer's settings.

    Args:
        message: Lightning's message.
        accelerator: ``trainer.accelerator``.
        devices: ``trainer.devices``.

    Returns:
        One line.
    """
    text = " ".join(message.split())
    if "gpu backend" in text or "CUDAAccelerator" in text or "requested gpu" in text:
        return (
            f"trainer.accelerator {accelerator} with trainer.devices {devices}: torch (build {torch.__version__}) sees "
            f"{torch.cuda.device_count()} GPUs. Set trainer.accelerator to cpu or take fewer devices, or install a "
            "torch build and driver that see them (nvidia-smi lists them)"
        )
    if "invalid strategy name" in text:
        return (
            f"trainer.strategy: {text.split('.', 1)[0]}. Take a file of configs/strategy: -c configs/strategy/ddp.yaml"
        )
    return f"trainer: {text}"


def _near_key(name: str, options: Sequence[str]) -> str:
    """The most similar key. Keys inside a part are not listed by the parser, so only their first word is compared."""
    found = near_name(name, options)
    if found:
        return found
    first, _, rest = name.partition(".")
    return near_name(first, {option.split(".")[0] for option in options}) if rest else ""


def _unknown_option(text: str) -> str | None:
    match = re.search(r"Option '([^']+)' is not accepted", text)
    if match is None:
        return None
    name = match[1].rsplit(".", 1)[-1]
    if name in OLD_POOLING_OPTIONS:
        return f"parts have no option '{name}' any more: the model pools patches once; set model.patch_pooling"
    accepted = {path: _parameters(path) for path in dict.fromkeys(_CLASS_PATH.findall(text))}
    for path, names in accepted.items():
        near = near_name(name, names)
        if near:
            return f"{path} has no option '{name}'{near}"
    path, names = next(iter(accepted.items()), ("this class", []))
    return f"{path} has no option '{name}'" + (f"; it has {', '.join(names)}" if names else "")


def _parameters(class_path: str) -> list[str]:
    try:
        return list(inspect.signature(pkgutil.resolve_name(class_path)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):  # no class of that name, or one without a signature
        return []


def _missing_name(text: str) -> str | None:
    match = re.search(r"module '([^']+)' has no attribute '([^']+)'", text)
    if match is not None:
        module, name = match[1], match[2]
    else:
        match = re.search(r"No module named '([^']+)'", text)
        if match is None:
            return None
        module, _, name = match[1].rpartition(".")
    if not module:
        return f"there is no module '{name}'{near_name(name, _top_level_names())}"
    names = _names_in(importlib.import_module(module))
    near = near_name(name, names)
    return f"{module} has no '{name}'{near or '; it has ' + ', '.join(names)}"


def _top_level_names() -> list[str]:
    return ["components", "lightning_modules", "datamodules", "lightning", "torch"]


def _names_in(module: ModuleType) -> list[str]:
    """Modules of a package, or classes that a module defines."""
    if hasattr(module, "__path__"):
        return sorted(info.name for info in pkgutil.iter_modules(module.__path__))
    return sorted(
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    )


def _wrong_class(text: str) -> str | None:
    match = re.search(r"Expected '([^']+)' to be a subclass of <class '([^']+)'>", text)
    return match and f"{match[1]} is no {match[2].rsplit('.', 1)[-1]}; name a class that is one"


def _failed_class(text: str) -> str | None:
    """The error that a class raises about its settings, or about a package that it needs."""
    match = re.search(r"Problem with given class_path '([^']+)':\s*(.+?)(?=\n\s*- |\nGiven value|\Z)", text, re.DOTALL)
    return match and f"{match[1].rsplit('.', 1)[-1]}: {' '.join(match[2].split())}"


def _wrong_type(text: str) -> str | None:
    given = _GIVEN.search(text)
    if given is None:
        return None
    wanted = re.search(r"Subtypes: \[(.*)\]", text) or re.search(r"Expected an? (<class '[^']+'>)", text)
    if wanted is None:
        cause = next((line.strip(" -") for line in text.splitlines() if line.strip(" -")), "it does not fit")
        return f"got {given[1]!r}: {cause}"
    types = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", lambda match: _NAMES.get(match[1], match[1]), wanted[1])
    return f"got {given[1]!r}, expected {' or '.join(types.split(', '))}"


def _place_of(text: str, files: Sequence[str]) -> str:
    match = re.search(r"Option '([^']+)' is not accepted|has no attribute '([^']+)'|No module named '([^']+)'", text)
    return _file_with(next(filter(None, match.groups())), files) if match else ""


def _file_with(name: str, files: Sequence[str]) -> str:
    """`` (in FILE)`` for the last file that has the last word of a key, outside comments."""
    word = re.compile(rf"\b{re.escape(name.rsplit('.', 1)[-1])}\b")
    for file in reversed(files):
        path = Path(file)
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if any(word.search(re.sub(r"(^|\s)#.*", "", line)) for line in lines):
                return f" (in {file})"
    return ""
