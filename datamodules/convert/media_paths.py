"""Finds the media file that a row names.

Annotations come from others, so their paths must stay below the media roots: absolute paths, ``..`` and urls are
refused. Links inside the media roots belong to the user and are followed.
"""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.shards.member_names import ARRAY_ENDINGS, IMAGE_ENDINGS, VIDEO_ENDINGS

NamedAs = Literal["image", "video"]
"""The field of the row that names the media."""

_TRIED_ENDINGS: dict[NamedAs, tuple[str, ...]] = {
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
}
_SAME_AS = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "m4v": "mp4", "qt": "mov"}
_SHOWN_LETTERS = 200
_ADVICE = {errno.ENAMETOOLONG: "give it a shorter name here and there", errno.EACCES: "allow its folders to be entered"}
_OTHER_PICTURES = frozenset({"bmp", "tif", "tiff", "avif", "heic", "heif", "jp2"})
_OTHER_VIDEOS = frozenset({"wmv", "asf", "flv", "mpg", "mpeg", "ts", "ogv", "rm"})


def checked_path(name: str) -> str:
    """Normalise the path that a row names.

    Raises:
        RowProblem: It could lead out of the media roots, or cannot be a path.
    """
    if "://" in name or name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name):
        folder = os.path.dirname(name[:200]).rstrip("/")
        remedy = f"; --strip-prefix {folder}/ would remove the folder" if name[:1] == "/" else ""
        raise RowProblem(
            Reason.REFUSED_PATH, f"path {name[:200]!r} is refused: absolute paths, '..' and urls are{remedy}"
        )
    path = PurePosixPath(name).as_posix()
    categories = {unicodedata.category(letter) for letter in path}
    if path == "." or "Cc" in categories:
        raise RowProblem(Reason.REFUSED_PATH, f"path {name[:200]!r} cannot be the path of a file")
    if "Cs" in categories:
        raise RowProblem(Reason.ENCODING, f"path {name[:200]!r} holds half a character; rename the file, or repair it")
    return path


def without_prefix(name: str, prefixes: Sequence[str]) -> str:
    """Remove the longest of these prefixes from a path; a path without any of them is returned as it is."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        rest = name.removeprefix(prefix)
        if rest != name and (prefix.endswith(("/", "\\")) or rest.startswith(("/", "\\"))):
            return rest.lstrip("/\\")
    return name


def find_media(name: str, folders: tuple[str, ...], named_as: NamedAs | None = None) -> Path:
    """Find a media file; a path without an ending is tried with those of the field that names it.

    Args:
        name: Path that the row names, as ``checked_path`` gives it.
        folders: Folders to search, in this order.
        named_as: Field that names it; None = not known, all endings are tried.

    Raises:
        RowProblem: It is in none of the folders, or is itself a folder; folders of frames are not supported.
    """
    endings = ("",) if ending_of(name) in _known_endings() else ("", *_tried_endings(named_as))
    obstacles: list[OSError] = []
    is_folder = False
    for folder in folders:
        for path in _candidates(Path(folder), name, endings):
            try:
                mode = path.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a too long name, a folder without permission, a lost network disk
                obstacles.append(error)
                continue
            if stat.S_ISREG(mode):
                return path
            is_folder = is_folder or (stat.S_ISDIR(mode) and path == Path(folder, name))
    shown = name if len(name) <= _SHOWN_LETTERS else f"{name[:_SHOWN_LETTERS]}..."
    if is_folder:
        raise RowProblem(Reason.UNSUPPORTED, f"{shown} is a folder, of frames perhaps; encode them as a video first")
    tried = f" (endings tried: {' '.join(endings[1:])})" if len(endings) > 1 else ""
    where = f"{shown} is not in {' or '.join(folders)}{tried}"
    if obstacles:
        why = ", ".join(dict.fromkeys(str(error.strerror) for error in obstacles))
        advice = _ADVICE.get(obstacles[0].errno or 0, "check the disk")
        raise RowProblem(Reason.MISSING, f"{where}, but not every folder could be searched: {why}; {advice}")
    raise RowProblem(Reason.MISSING, f"{where}; fetch it, or set --media-root")


def stored_ending(path: Path) -> str | None:
    """The ending under which a shard stores this file, by its name; None if shards do not hold such files."""
    ending = ending_of(path.name)
    ending = _SAME_AS.get(ending, ending)
    return ending if ending in VIDEO_ENDINGS | IMAGE_ENDINGS | ARRAY_ENDINGS else None


def usual_field(name: str) -> NamedAs:
    """The field that usually names media with this ending."""
    ending = ending_of(name)
    return "image" if _SAME_AS.get(ending, ending) in IMAGE_ENDINGS | _OTHER_PICTURES else "video"


def is_media_ending(ending: str) -> bool:
    """Whether files with this ending are usually pictures, videos or arrays of frames."""
    return ending in _known_endings() | _OTHER_VIDEOS


def ending_of(name: str) -> str:
    """A name's ending in lower case, without its dot."""
    return PurePosixPath(name).suffix.lower().lstrip(".")


def _tried_endings(named_as: NamedAs | None) -> tuple[str, ...]:
    if named_as is not None:
        return _TRIED_ENDINGS[named_as]
    return tuple(dict.fromkeys(_TRIED_ENDINGS["video"] + _TRIED_ENDINGS["image"]))


def _known_endings() -> frozenset[str]:
    return VIDEO_ENDINGS | IMAGE_ENDINGS | ARRAY_ENDINGS | _SAME_AS.keys() | _OTHER_PICTURES


def _candidates(folder: Path, name: str, endings: tuple[str, ...]) -> Iterator[Path]:
    for ending in endings:
        yield folder / (name + ending)
    if not name.isascii():
        for ending in endings:
            path = _spelled_otherwise(folder, name + ending)
            if path is not None:
                yield path


def _spelled_otherwise(folder: Path, name: str) -> Path | None:
    """The file whose name has the same letters in another Unicode form: Macs store accents separately (NFD).

    Every folder of the path may use either form.
    """
    path = folder
    for part in PurePosixPath(name).parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        found = next((spelling for spelling in spellings if os.path.exists(path / spelling)), None)
        if found is None:
            return None
        path = path / found
    return path
