"""Finds keys in config files that no setting has, before the parser reads the files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.console.settings_errors import SettingsError, near_name


def named_config_files(arguments: Sequence[str]) -> list[str]:
    """The files that a command line names with ``-c``, in order."""
    return [
        match[2] or following
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True)
        if (match := re.fullmatch(r"(-c|--config)(?:=(.*))?", argument, re.DOTALL))
    ]


def check_keys(files: Sequence[str], options: Sequence[str]) -> None:
    """Hold the keys of config files against the settings that there are.

    The parser passes over a mapping without values under a wrong key, as ``modle: {bridge: {}}``, and does not say in
    which file a wrong key is.

    Args:
        files: YAML files; those that are not there are left to the parser.
        options: Keys of all settings, such as ``trainer.max_steps``.

    Raises:
        SettingsError: A file is no YAML, or a key is no setting and leads to none; the message names the file and the
            nearest key.
    """
    for file in files:
        path = Path(file)
        if not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
            raise SettingsError(f"{file}{place} is no YAML: {error.problem or error.context}; correct it") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} is no YAML in UTF-8: {' '.join(str(error).split())}") from error
        if isinstance(content, dict):
            _check(file, content, "", options)


def _check(file: str, content: dict[Any, Any], before: str, options: Sequence[str]) -> None:
    for key, value in content.items():
        key = str(key).removesuffix("+")  # a list that is added to
        name = f"{before}{key}"
        below = [option for option in options if option.startswith(f"{name}.") and option != f"{name}.help"]
        if not below and name in options:
            continue
        if not below:
            siblings = sorted({option.removeprefix(before).split(".")[0] for option in options})
            near = near_name(key, siblings)
            raise SettingsError(f"{file}: there is no setting {name}{near or '; there are ' + ', '.join(siblings)}")
        if isinstance(value, dict):
            _check(file, value, f"{name}.", below)
