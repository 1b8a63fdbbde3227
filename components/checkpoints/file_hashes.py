"""Content hashes of files: a checkpoint whose files were changed or damaged is told from one that is whole.

The hash is the SHA-256 of the sums of a file's pages and of its length. A sum is taken at the speed of memory; SHA-256
of the whole content would double the time that saving takes where no core is idle. Every change of a single number,
every page that is lost, cleared or in another's place, and every other file is found. It is no protection against
somebody who changes a file on purpose and keeps the sums: whoever can do that can also write the index.
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
    """Hash of a content that comes piece by piece; how it is cut into pieces does not matter."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._length = 0
        self._rest = b""  # of the last page, which is not full yet

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
        whole = len(piece) - len(piece) % _PAGE
        self._add_pages(piece[:whole])
        self._rest = bytes(piece[whole:])

    def hexdigest(self) -> str:
        """The hash of all that has come, in hexadecimal digits."""
        end = self._hash.copy()
        end.update(self._rest + self._length.to_bytes(8, "little"))
        return end.hexdigest()

    def _add_pages(self, pages: bytes | memoryview) -> None:
        numbers = np.frombuffer(pages, dtype="<u8").reshape(-1, _PAGE // 8)
        self._hash.update(numbers.sum(axis=1, dtype="<u8").tobytes())  # what is beyond 64 bits is dropped


def content_hash(path: Path) -> str:
    """The hash of a file's content."""
    found = ContentHash()
    with path.open("rb") as file:
        while piece := file.read(_READ_AT_ONCE):
            found.update(piece)
    return found.hexdigest()


def refuse_changed_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare files with what they held when they were written.

    Args:
        folder: Where they are.
        hashes: File name to content hash.

    Raises:
        ValueError: A file is missing, or holds something else.
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
