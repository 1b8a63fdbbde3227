"""Reads config files: finds keys that no setting has, merges several files, and accepts old class paths."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import (  # type: ignore[attr-defined]  # not all are in its __all__
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    get_loader,
    set_loader,
)
from omegaconf import OmegaConf

from components.old_class_paths import with_new_class_paths
from components.old_pooling_settings import with_model_pooling
from lightning_modules.console.settings_errors import SettingsError, explain, near_name

PARSER_MODE = "omegaconf+"
"""How jsonargparse reads files: as YAML, and ``${...}`` is resolved once all files are merged."""
_OLD_OPTION = re.compile(r"^--data\.loading\.budget\.bundle(?==|$)")
_NEW_OPTION = "--data.loading.budget.group_size"
_log = logging.getLogger(__name__)


def named_config_files(arguments: Sequence[str]) -> list[str]:
    """The files that a command line names with ``-c``, in order."""
    return [
        match[2] or following
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True)
        if (match := re.fullmatch(r"(-c|--config)(?:=(.*))?", argument, re.DOTALL))
    ]


def accept_old_class_paths() -> None:
    """Have every parser of this process replace old class paths and keys in the files that it reads."""
    set_loader(
        PARSER_MODE, lambda text: with_new_keys(get_loader("yaml")(with_new_class_paths(text))), (yaml.YAMLError,)
    )


def with_new_keys(content: Any) -> Any:
    """Rename keys of earlier versions: ``bundle`` of a budget, and the options of parts that pooled patches.

    Both names in one config would leave open which one counts, and a later file or option could not change the value.

    Args:
        content: What a YAML reader returns; changed in place.

    Raises:
        SettingsError: See ``with_model_pooling``.
    """
    try:
        with_model_pooling(content)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if isinstance(content, dict):
        budget = content.get("budget")
        if isinstance(budget, dict) and "bundle" in budget:
            budget["group_size"] = budget.pop("bundle")
            _log.warning("data.loading.budget.bundle is called group_size now; rename it")
        for value in content.values():
            with_new_keys(value)
    return content


def with_new_option(argument: str) -> str:
    """Replace old class paths and an old key in an argument of a command line."""
    argument = _OLD_OPTION.sub(_NEW_OPTION, with_new_class_paths(argument))
    is_budget = argument.startswith("--data.loading.budget=")
    return re.sub(r"\bbundle(?=\W*:)", "group_size", argument) if is_budget else argument


def read_config(files: Sequence[str | Path], sections: Mapping[str, type]) -> dict[str, Any]:
    """Read config files and merge them in order, as the command line of ``train.py`` does.

    jsonargparse merges the typed sections: where a later file names another class, the options that this class has
    too stay. The other sections are merged key by key. A single file is given as it is written.

    Args:
        files: YAML files, at least one.
        sections: The typed sections, such as ``model``, and the class whose constructor has their settings.

    Returns:
        The settings in the files, ``${...}`` resolved.

    Raises:
        SettingsError: A file is no config, or names a class or a setting that does not exist.
        FileNotFoundError: A file is missing.
    """
    contents = [_read(file) for file in files]
    merged = contents[0] if len(contents) == 1 else _merge(contents, sections, [str(file) for file in files])
    resolved: Any = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    return dict(resolved)


def read_as_written(files: Sequence[str | Path]) -> dict[str, Any]:
    """Read config files and merge them key by key, with class paths as they are written, as earlier versions did.

    Args:
        files: YAML files that ``read_config`` can read.

    Returns:
        The settings in the files, ``${...}`` resolved.
    """
    settings: Any = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)), resolve=True)
    return dict(settings)


def check_keys(files: Sequence[str], options: Sequence[str]) -> None:
    """Compare the keys of config files with the settings that exist.

    The parser ignores a mapping without values under a wrong key, such as ``modle: {bridge: {}}``, and does not say
    which file has a wrong key.

    Args:
        files: YAML files; missing ones are left to the parser.
        options: Keys of all settings, such as ``trainer.max_steps``.

    Raises:
        SettingsError: A file is no YAML, or a key is neither a setting nor the beginning of one; the message names the
            file and the nearest key.
    """
    for file in files:
        path = Path(file)
        if not path.is_file():
            continue
        with _named_in_errors(file):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            _check(file, content, "", options)


def _read(file: str | Path) -> dict[str, Any]:
    with _named_in_errors(file):
        text = with_new_class_paths(Path(file).read_text(encoding="utf-8"))
        content: Any = with_new_keys(OmegaConf.to_container(OmegaConf.load(io.StringIO(text))))
    if not isinstance(content, dict):
        raise SettingsError(f"{file} holds a {type(content).__name__}, no settings by name; correct it")
    return content


def _merge(contents: Sequence[dict[str, Any]], sections: Mapping[str, type], files: Sequence[str]) -> Any:
    typed = [{key: value for key, value in content.items() if key in sections} for content in contents]
    rest: Any = OmegaConf.merge(*({k: v for k, v in content.items() if k not in sections} for content in contents))
    parser = ArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    for name in sorted({name for content in typed for name in content}):
        parser.add_class_arguments(sections[name], name, fail_untyped=False, sub_configs=True)
    for name in rest:  # known to the parser, because the typed sections may refer to them by ${...}
        parser.add_argument(f"--{name}", type=Any)
    given = [yaml.safe_dump(content, sort_keys=False) for content in [*typed, OmegaConf.to_container(rest)] if content]
    try:
        parsed = parser.parse_args([part for text in given for part in ("--config", text)], defaults=False)
    except ArgumentError as error:
        keys = [action.dest for action in parser._actions if action.dest]
        raise SettingsError(explain(str(error), keys, files)) from error
    return yaml.safe_load(parser.dump(parsed, skip_unset=False))


@contextlib.contextmanager
def _named_in_errors(file: str | Path) -> Iterator[None]:
    """Say which file is no YAML, and where."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise SettingsError(f"{file}{position} is no YAML: {error.problem or error.context}; correct it") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is no YAML in UTF-8: {' '.join(str(error).split())}") from error


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
