"""Lists the members of another project's tar, and copies a member to a file.

The tar may be hostile or damaged. Only headers are parsed, links are not followed, and the name of a member is never
used as the name of a file.
"""

import functools
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datamodules.convert.media_paths import checked_path
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.shards.shard_scan import HeaderFile

_BLOCK = 512
_COPIED_AT_ONCE = 1 << 20
_WEBDATASETS_OWN = re.compile(r"__[^/]*__($|/)")  # metadata of a set, which WebDataset skips too


class Member(NamedTuple):
    """One file in a tar."""

    name: str  # in the form that ``checked_path`` gives
    header: int  # byte at which its header starts
    start: int  # byte at which its content starts
    size: int  # bytes
    problem: RowProblem | None = None  # why it is refused


class TarContents(NamedTuple):
    """The files in a tar, in its order."""

    members: tuple[Member, ...]
    damage: RowProblem | None  # why files may be missing; None if the tar is complete
    size: int  # bytes of the tar; 0 if it cannot be read
    usable: Mapping[str, Member]  # those without a problem, by name


def read_contents(path: Path) -> TarContents:
    """List the files in a tar; of a damaged tar, those before the damage."""
    try:
        status = path.stat()
        return _read_contents(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror}); check its permissions and its disk"
        return TarContents((), RowProblem(Reason.DAMAGED, why), 0, {})


def is_tar(folders: Sequence[str]) -> bool:
    """Whether media are in a tar rather than below folders."""
    return len(folders) == 1 and Path(folders[0]).is_file()


def copy_member(tar: Path, name: str, target: Path, tick: Callable[[], None]) -> None:
    """Copy one file out of a tar.

    Args:
        tar: The tar.
        name: Of the member, as ``Member.name``.
        target: File to write.
        tick: Called after every mebibyte, to show that the copy is not stuck.

    Raises:
        RowProblem: The tar has changed or cannot be read any more.
    """
    member = read_contents(tar).usable.get(name)
    if member is None:
        raise RowProblem(Reason.MISSING, f"{tar} does not hold {name} any more; was it changed?")
    with _opened(tar) as source, target.open("wb") as copy:
        source.seek(member.start)
        left = member.size
        while left:
            data = _read(source, min(left, _COPIED_AT_ONCE), tar)
            copy.write(data)
            left -= len(data)
            tick()


def _opened(tar: Path) -> BinaryIO:
    try:
        return tar.open("rb")
    except OSError as error:
        raise RowProblem(Reason.MISSING, f"{tar} cannot be read any more ({error.strerror})") from error


def _read(source: BinaryIO, size: int, tar: Path) -> bytes:
    try:
        data = source.read(size)
    except OSError as error:
        raise RowProblem(Reason.DAMAGED, f"{tar} cannot be read ({error.strerror}); check its disk") from error
    if not data:
        raise RowProblem(Reason.DAMAGED, f"{tar} became shorter while it was read; copy it again")
    return data


@functools.lru_cache(4)
def _read_contents(path: Path, size: int, changed_ns: int) -> TarContents:
    members: list[Member] = []
    names: set[str] = set()
    with path.open("rb", buffering=0) as raw:
        file = HeaderFile(raw)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    if not info.isdir() and not _WEBDATASETS_OWN.match(info.name):
                        members.append(_member(info, size, names))
                damage = _damage_at_end(path, file, tar.offset)
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
            why = f"{path} is cut off or no plain tar ({error}); copy it again, and unpack it if it is compressed"
            damage = RowProblem(Reason.DAMAGED, why)
        file.detach()
    usable = {member.name: member for member in members if member.problem is None}
    return TarContents(tuple(members), damage, size, usable)


def _member(info: tarfile.TarInfo, tar_size: int, names: set[str]) -> Member:
    name, problem = info.name, None
    try:
        name = checked_path(info.name)
    except RowProblem as error:
        problem = RowProblem(error.reason, f"member {info.name[:200]!r} is refused: {error.message}")
    if problem is None:
        problem = next(_problems(info, name, tar_size, names), None)
    names.add(name)
    return Member(name, info.offset, info.offset_data, info.size, problem)


def _problems(info: tarfile.TarInfo, name: str, tar_size: int, names: set[str]) -> Iterator[RowProblem]:
    if not info.isreg() or info.issparse() or info.size < 0:
        yield RowProblem(Reason.REFUSED_PATH, f"member {name!r} is refused: it is a link or no plain file")
    if name in names:
        yield RowProblem(Reason.MALFORMED, f"member {name!r} is in the tar twice; give every sample its own key")
    if info.offset_data + info.size > tar_size:
        yield RowProblem(Reason.DAMAGED, f"member {name!r} is cut off, as its tar is; copy the tar again")


def _damage_at_end(path: Path, file: HeaderFile, offset: int) -> RowProblem | None:
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        why = f"{path} has no end mark at byte {offset}, so samples may be missing; copy it again"
        return RowProblem(Reason.DAMAGED, why)
    if file.read(_COPIED_AT_ONCE).strip(b"\0"):
        why = f"{path} goes on after its end mark at byte {offset}, which is not read; was a second tar appended?"
        return RowProblem(Reason.DAMAGED, why)
    return None
