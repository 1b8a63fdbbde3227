"""Creates, replaces and removes folders and links atomically.

A folder is written under a temporary name and renamed when it is complete. A process that is killed at any time leaves
either the old folder or the new one, never a part of one.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from components.checkpoints.run_checkpoint import INDEX, REPLACED

_UNFINISHED = ".{}.writing"
_REMOVING = ".{}.removing"


def unfinished_path(folder: Path) -> Path:
    """Temporary path of a folder or file until it is complete."""
    return folder.with_name(_UNFINISHED.format(folder.name))


def begin(folder: Path, *, is_only_writer: bool = True) -> None:
    """Create the empty temporary folder, and remove what killed processes left.

    Args:
        folder: Final path of the folder.
        is_only_writer: Whether no other process writes folders beside it. Then unfinished folders of other names are
            removed too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if is_only_writer:
        tidy(folder.parent)
    else:
        _delete(unfinished_path(folder))
    unfinished_path(folder).mkdir()


def publish(folder: Path) -> None:
    """Rename the complete temporary folder to its final path, after all of its files are on disk.

    If the process is killed between the two renames, the previous folder is still under its temporary name, which
    ``RunCheckpoint`` also tries.

    Args:
        folder: Final path. A folder, file or link that is there now is removed.
    """
    flush(unfinished_path(folder))
    replaced = folder.with_name(REPLACED.format(folder.name))
    if os.path.lexists(folder):
        os.rename(folder, replaced)
    os.rename(unfinished_path(folder), folder)
    flush(folder.parent)
    _delete(replaced)


def remove(folder: Path) -> None:
    """Rename a folder, then delete it, so that its own name never belongs to an incomplete folder."""
    removing = folder.with_name(_REMOVING.format(folder.name))
    if os.path.lexists(folder):
        os.rename(folder, removing)
        _delete(removing)


def link(name: Path, folder: Path) -> None:
    """Create or replace a symbolic link to a folder, atomically.

    Args:
        name: Path of the link; must not be a folder.
        folder: Its target. The link is relative, so that the parent of both can be moved.
    """
    new = unfinished_path(name)
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(folder, name.parent))
    os.replace(new, name)
    flush(name.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file. A reader sees either the old content or the new one.

    A device or a pipe, such as ``/dev/stdout``, is written to and not replaced.

    Raises:
        OSError: The file cannot be written. The old content is still there.
    """
    is_special = path.exists() and not path.is_file()
    new = path if is_special else unfinished_path(path)
    try:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")
        if not is_special:
            os.replace(new, path)
    except OSError as error:
        if not is_special:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from error


def tidy(parent: Path) -> None:
    """Clean up after killed processes: delete unfinished folders, restore a folder whose replacement never came."""
    for pattern in (_UNFINISHED, _REMOVING):
        for leftover in list(parent.glob(pattern.format("*"))):
            _delete(leftover)
    for replaced, folder in _replaced(parent):
        if os.path.lexists(folder):
            _delete(replaced)
        else:
            os.rename(replaced, folder)


def newest_checkpoint(*parents: Path) -> Path | None:
    """The most recently completed checkpoint in some folders; links to checkpoints are ignored."""
    found = [path for parent in parents for path in parent.glob("[!.]*") if not path.is_symlink()]
    indices = {path: path / INDEX for path in found}
    indices |= {folder: replaced / INDEX for parent in parents for replaced, folder in _replaced(parent)}
    times = {path: index.stat().st_mtime_ns for path, index in indices.items() if index.is_file()}
    return max(times, key=times.__getitem__) if times else None


def flush(folder: Path) -> None:
    """Write a folder's list of names to disk (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replaced(parent: Path) -> list[tuple[Path, Path]]:
    """Folders that were renamed to be replaced, each with its original path."""
    before, after = REPLACED.split("{}")
    found = list(parent.glob(REPLACED.format("*")))
    return [(path, path.with_name(path.name.removeprefix(before).removesuffix(after))) for path in found]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
