"""File modes of what libraries write.

Some write through a temporary file, which only its owner may read; in a group's folder nobody else could open it.
"""

import stat
from pathlib import Path


def follow_umask(path: Path) -> None:
    """Give a file, or all files directly in a folder, the mode that a new file there has.

    Args:
        path: What a library wrote.
    """
    folder, files = (path.parent, [path]) if path.is_file() else (path, [each for each in path.iterdir()])
    new = folder / f".{path.name}.mode"
    new.touch()
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for file in files:
        if file.is_file():
            file.chmod(mode)
