"""Sets the permissions of files that libraries wrote.

Some libraries write through a temporary file that only its owner may read. Other members of a group could not open it.
"""

import stat
from pathlib import Path


def follow_umask(path: Path) -> None:
    """Give a file, or all files directly in a folder, the default permissions of new files.

    Args:
        path: The file or folder that a library wrote.
    """
    folder, files = (path.parent, [path]) if path.is_file() else (path, [each for each in path.iterdir()])
    new = folder / f".{path.name}.mode"
    new.touch()
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    for file in files:
        if file.is_file():
            file.chmod(mode)
