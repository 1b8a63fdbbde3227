"""Finds the media of a benchmark's items: names may lack their ending."""

from pathlib import Path

from datamodules.errors import SampleError

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
"""Endings that are tried, in this order, where a name has none of a file that is there."""


def find_media(folder: Path, name: str) -> Path:
    """Find a video, picture or folder of frames.

    Args:
        folder: The folder of media.
        name: Path from there on, with or without the ending.

    Raises:
        FileNotFoundError: There is none.
        SampleError: The name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SampleError(f"the medium {name!r} is not inside the folder of media")
    for candidate in (folder / name, *(folder / f"{name}{ending}" for ending in VIDEO_ENDINGS)):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"there is no {folder / name}, nor one that ends in {', '.join(VIDEO_ENDINGS)}")
