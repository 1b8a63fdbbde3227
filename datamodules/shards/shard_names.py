"""Which shards are meant by paths, folders, glob patterns, brace patterns and urls."""

import glob
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from datamodules.errors import ShardError
from datamodules.shards.storage import is_remote, list_remote


def find_shards(patterns: str | Sequence[str]) -> list[str]:
    """List the shards that are meant, sorted within each pattern.

    A pattern is a path or url, a folder or a url that ends with ``/`` (its ``*.tar``), a glob pattern, or one with
    braces as WebDataset writes it: ``https://host/train-{000000..000012}.tar``. Web servers that show no list of their
    files need braces.

    Returns:
        Local paths and urls.

    Raises:
        ShardError: A pattern names nothing, cannot be listed, or is a command. A source that is silently empty would
            train on less than was asked.
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
        return [pattern]  # a path with braces in it
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise ShardError(f"shard pattern {pattern!r} has a brace without its counterpart") from error


def _find_local(pattern: str) -> list[str]:
    path = Path(pattern.removeprefix("file://").removeprefix("local://"))
    place = str(path / "*.tar") if path.is_dir() else str(path)
    matches = [place] if path.is_file() else sorted(glob.glob(place))
    if not matches:
        raise ShardError(f"no shard matches {place!r} (seen from {Path.cwd()}); check the path, or make the data")
    return matches


def _find_remote(pattern: str) -> list[str]:
    place = f"{pattern}*.tar" if pattern.endswith("/") else pattern
    if not any(letter in place for letter in "*["):
        return [place]  # whether it is there shows when its index is read, which asks the store anyway
    matches = list_remote(place)
    if not matches:
        raise ShardError(
            f"no shard matches {place!r}; check the url and the credentials. A web server that shows no list of its "
            "files cannot be searched: name them with braces, such as train-{000000..000012}.tar"
        )
    return matches
