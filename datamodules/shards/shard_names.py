"""Finds shards by paths, folders, glob patterns, brace patterns and urls."""

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from datamodules.errors import ShardError
from datamodules.shards.storage import is_remote, list_remote


def find_shards(patterns: str | Sequence[str]) -> list[str]:
    """List the shards that these patterns name, sorted within each pattern.

    A pattern is a path or url, a folder or a url that ends with ``/`` (its ``*.tar``), a glob pattern, or one with
    braces as in WebDataset: ``https://host/train-{000000..000012}.tar``. Use braces for a web server that does not list
    its files.

    Returns:
        Local paths and urls.

    Raises:
        ShardError: A pattern names no shard, cannot be listed, or is a command. With a source silently missing, the run
            would train on less data than configured.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for name in _expand_braces(pattern):
            found.update(dict.fromkeys(_find_remote(name) if is_remote(name) else _find_local(name)))
    return list(found)


def _expand_braces(pattern: str) -> list[str]:
    if pattern.startswith("pipe:"):
        raise ShardError(f"shard {pattern!r} is refused: shards are read from paths and urls, no commands are run")
    if Path(pattern).exists():
        return [pattern]  # the path itself has braces
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise ShardError(f"shard pattern {pattern!r} has a brace without its counterpart") from error


def _find_local(pattern: str) -> list[str]:
    path = Path(pattern.removeprefix("file://").removeprefix("local://"))
    wanted = str(path / "*.tar") if path.is_dir() else str(path)
    matches = [wanted] if path.is_file() else sorted(glob.glob(wanted))
    if not matches:
        raise ShardError(f"no shard matches {wanted!r} (seen from {Path.cwd()}); check the path, or make the data")
    return matches


def _find_remote(pattern: str) -> list[str]:
    wanted = f"{pattern}*.tar" if pattern.endswith("/") else pattern
    if not any(letter in wanted for letter in "*["):
        return [wanted]  # whether it exists is seen when its index is read
    matches = list_remote(wanted)
    if not matches:
        raise ShardError(
            f"no shard matches {wanted!r}; check the url and the credentials. A web server that does not list its "
            "files cannot be searched: name them with braces, such as train-{000000..000012}.tar"
        )
    return matches
