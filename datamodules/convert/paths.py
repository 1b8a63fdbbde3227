"""Finds the media file that a row names.

The annotations were written by others. A path in them never leaves the media roots: absolute paths, ``..`` and urls are
refused. Links inside the media roots are the user's own and are followed.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from datamodules.convert.problems import Reason, RowProblem
from datamodules.schema import IMAGE_ENDINGS, VIDEO_ENDINGS

_TRIED_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_SAME_AS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "m4v": "mp4", "qt": "mov"}


def checked_path(name: str) -> str:
    """Bring the path that a row names into one form.

    Raises:
        RowProblem: It could lead out of the media roots, or cannot be a path.
    """
    if "://" in name or name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name):
        remedy = f"; --strip-prefix {os.path.dirname(name[:200])}/ would take the folder off" if name[:1] == "/" else ""
        raise RowProblem(
            Reason.REFUSED_PATH, f"path {name[:200]!r} is refused: absolute paths, '..' and urls are{remedy}"
        )
    path = PurePosixPath(name).as_posix()
    if path == "." or not path.isprintable():
        raise RowProblem(Reason.REFUSED_PATH, f"path {name[:200]!r} cannot be the path of a file")
    return path


def without_prefix(name: str, prefixes: Sequence[str]) -> str:
    """Take the longest of these folders off the path that a row names; one that begins otherwise stays as it is."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        rest = name.removeprefix(prefix)
        if rest != name and (prefix.endswith(("/", "\\")) or rest.startswith(("/", "\\"))):
            return rest.lstrip("/\\")
    return name


def find_media(name: str, folders: tuple[str, ...]) -> Path:
    """Find a media file; a path without an ending is tried with those of videos.

    Raises:
        RowProblem: It is in none of the folders, or is itself a folder: one of frames is not supported.
    """
    endings = ("",) if PurePosixPath(name).suffix.lower().lstrip(".") in _known_endings() else ("", *_TRIED_ENDINGS)
    for folder in folders:
        for ending in endings:
            path = Path(folder, name + ending)
            if path.is_file():
                return path
    if any(Path(folder, name).is_dir() for folder in folders):
        raise RowProblem(Reason.UNSUPPORTED, f"{name} is a folder, of frames perhaps; encode them as a video first")
    tried = f" (endings tried: {' '.join(endings[1:])})" if len(endings) > 1 else ""
    raise RowProblem(Reason.MISSING, f"{name} is not in {' or '.join(folders)}{tried}; fetch it, or set --media-root")


def stored_ending(path: Path) -> str | None:
    """The ending under which a shard stores this file as it is; None where it cannot."""
    ending = path.suffix.lower().lstrip(".")
    ending = _SAME_AS.get(ending, ending)
    return ending if ending in VIDEO_ENDINGS | IMAGE_ENDINGS else None


def _known_endings() -> frozenset[str]:
    return VIDEO_ENDINGS | IMAGE_ENDINGS | _SAME_AS.keys()
