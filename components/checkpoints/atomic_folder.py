"""How a checkpoint's folder gets its name: when it is whole, in one step, whatever stood there before."""

import os
import shutil
from pathlib import Path

from components.checkpoints.run_checkpoint import INDEX, REPLACED

_UNFINISHED = ".{}.writing"
_UNWANTED = ".{}.removing"


def unfinished_path(folder: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return folder.with_name(_UNFINISHED.format(folder.name))


def begin(folder: Path) -> None:
    """Make the empty folder to write in; what killed runs left beside it goes.

    Args:
        folder: Name that the checkpoint will have.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    tidy(folder.parent)
    unfinished_path(folder).mkdir()


def publish(folder: Path) -> None:
    """Give the checkpoint its name, once all of its files are on disk.

    A kill at any point leaves a whole one: under the name or, between the two renames, the one before under the name
    at which ``RunCheckpoint`` looks as well.

    Args:
        folder: Its name. What has it now (a folder, a file, a link) goes.
    """
    flush(unfinished_path(folder))
    replaced = folder.with_name(REPLACED.format(folder.name))
    if os.path.lexists(folder):
        os.rename(folder, replaced)
    os.rename(unfinished_path(folder), folder)
    flush(folder.parent)
    _delete(replaced)


def remove(folder: Path) -> None:
    """Remove a checkpoint; what bears a checkpoint's name is whole even while one is removed."""
    unwanted = folder.with_name(_UNWANTED.format(folder.name))
    if os.path.lexists(folder):
        os.rename(folder, unwanted)
        _delete(unwanted)


def link(name: Path, folder: Path) -> None:
    """Let a name lead to a checkpoint, in one step, whatever it led to before.

    Args:
        name: The link's path; not that of a folder.
        folder: The checkpoint; the link is relative, so that the folder of both can be moved.
    """
    new = unfinished_path(name)
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(folder, name.parent))
    os.replace(new, name)
    flush(name.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file; what reads it sees the old one or the new one."""
    new = unfinished_path(path)
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def tidy(parent: Path) -> None:
    """Undo what a kill interrupted: unfinished folders go, and a replaced one whose successor never came is back."""
    for pattern in (_UNFINISHED, _UNWANTED):
        for leftover in list(parent.glob(pattern.format("*"))):
            _delete(leftover)
    for replaced, folder in _replaced(parent):
        if os.path.lexists(folder):
            _delete(replaced)
        else:
            os.rename(replaced, folder)


def newest_checkpoint(*parents: Path) -> Path | None:
    """The checkpoint that was finished last in some folders; links to checkpoints do not count."""
    found = [path for parent in parents for path in parent.glob("[!.]*") if not path.is_symlink()]
    places = {path: path / INDEX for path in found}
    places |= {folder: replaced / INDEX for parent in parents for replaced, folder in _replaced(parent)}
    times = {path: index.stat().st_mtime_ns for path, index in places.items() if index.is_file()}
    return max(times, key=times.__getitem__) if times else None


def flush(folder: Path) -> None:
    """Have the disk hold a folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replaced(parent: Path) -> list[tuple[Path, Path]]:
    """Folders that were renamed to make room, each with the name it had."""
    before, after = REPLACED.split("{}")
    found = list(parent.glob(REPLACED.format("*")))
    return [(path, path.with_name(path.name.removeprefix(before).removesuffix(after))) for path in found]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
