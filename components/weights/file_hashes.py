"""Content hashes of files: a checkpoint whose files were changed or damaged is told from one that is whole."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_FILES_AT_ONCE = 8


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_changed_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare files with what they held when they were written.

    Args:
        folder: Where they are.
        hashes: File name to SHA-256.

    Raises:
        ValueError: A file holds something else.
    """
    if not hashes:
        return
    with ThreadPoolExecutor(min(len(hashes), _FILES_AT_ONCE)) as pool:
        found = dict(zip(hashes, pool.map(lambda name: sha256_of(folder / name), hashes), strict=True))
    changed = [name for name, expected in hashes.items() if found[name] != expected]
    if changed:
        raise ValueError(
            f"{folder} was changed or damaged after it was written: {', '.join(changed[:3])} "
            f"({len(changed)} of its files) does not have the content that its index says. Copy it again, or use "
            "another checkpoint"
        )
