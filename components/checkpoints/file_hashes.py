"""Content hashes that detect changed or damaged files of a checkpoint.

The hash is the SHA-256 of the file's length and of one sum per page (4096 bytes). Sums are as fast as reading memory;
SHA-256 of the complete content would double the time to save where no core is idle. The hash detects a change of any
single number, pages that are lost, cleared or exchanged, and other files. It does not protect against deliberate
changes that preserve the sums; somebody who can make them can also change the index.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_PAGE = 4096
_READ_AT_ONCE = 4096 * _PAGE
_FILES_AT_ONCE = 8


class ContentHash:
    """Computes the hash of a content that arrives in pieces; the result does not depend on their sizes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._length = 0
        self._rest = b""  # beginning of a page that is not complete yet

    def update(self, content: bytes | memoryview) -> None:
        """Add the next piece."""
        piece = memoryview(content).cast("B")
        self._length += len(piece)
        if self._rest:
            missing = _PAGE - len(self._rest)
            self._rest += piece[:missing]
            piece = piece[missing:]
            if len(self._rest) < _PAGE:
                return
            self._add_pages(self._rest)
        end_of_pages = len(piece) - len(piece) % _PAGE
        self._add_pages(piece[:end_of_pages])
        self._rest = bytes(piece[end_of_pages:])

    def hexdigest(self) -> str:
        """The hash of everything added so far, in hexadecimal digits."""
        end = self._hash.copy()
        end.update(self._rest + self._length.to_bytes(8, "little"))
        return end.hexdigest()

    def _add_pages(self, pages: bytes | memoryview) -> None:
        numbers = np.frombuffer(pages, dtype="<u8").reshape(-1, _PAGE // 8)
        self._hash.update(numbers.sum(axis=1, dtype="<u8").tobytes())  # sums wrap around at 64 bits


def content_hash(path: Path) -> str:
    """The hash of a file's content."""
    found = ContentHash()
    with path.open("rb") as file:
        while piece := file.read(_READ_AT_ONCE):
            found.update(piece)
    return found.hexdigest()


def refuse_changed_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Check that files have the content that they were written with.

    Args:
        folder: Folder of the files.
        hashes: Content hash by file name.

    Raises:
        ValueError: A file is missing, or its content was changed.
    """
    missing = [name for name in hashes if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is incomplete: it has no {', '.join(missing[:3])}. Copy it again")
    if not hashes:
        return
    with ThreadPoolExecutor(min(len(hashes), _FILES_AT_ONCE)) as pool:
        found = dict(zip(hashes, pool.map(lambda name: content_hash(folder / name), hashes), strict=True))
    changed = [name for name, expected in hashes.items() if found[name] != expected]
    if changed:
        raise ValueError(
            f"{folder} was changed or damaged after it was written: {', '.join(changed[:3])} ({len(changed)} of its "
            "files) does not have the content that its index says. Copy it again, or use another checkpoint"
        )
