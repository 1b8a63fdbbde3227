"""One pass over a tar's headers: which samples a shard has, and where they are.

Shards are not trusted. No member is extracted or run, no link is followed, and memory is limited whatever sizes the
headers claim.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from datamodules.errors import MalformedJsonError, MembersError, SampleError, ShardError
from datamodules.shards.member_names import MediaCount, check_media, media_endings, split_member_name
from datamodules.shards.schema import MAX_JSON_BYTES, Record, parse_record

_TAR_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20

Members = dict[str, tuple[int, int]]
"""Ending, such as ``json`` or ``0.jpg`` -> offset and size in bytes."""


class ScannedSample(NamedTuple):
    """One sample, as found in the tar."""

    key: str
    members: Members
    record: Record | None  # None where the sample cannot be used
    error: SampleError | None  # why it cannot be used


def scan(shard: str, raw: io.FileIO) -> Iterator[ScannedSample]:
    """Find a shard's samples and read their JSON, but no media.

    Args:
        shard: Path or url, for messages.
        raw: The shard, open.

    Raises:
        ShardError: The shard is empty, truncated, compressed, or has a member that is refused.
    """
    groups: dict[str, Members] = {}
    previous = None
    for member in _plain_members(shard, raw):
        key, ending = split_member_name(member.name, shard)
        members = groups.setdefault(key, {})
        if (members and key != previous) or ending in members:
            raise ShardError(
                f"shard {shard}, key {key!r}: its members are not next to each other or {ending!r} is there twice; "
                "give every sample its own key and write its members together"
            )
        members[ending] = (member.offset_data, member.size)
        previous = key
    if not groups:
        raise ShardError(f"shard {shard} is empty: it has no sample; make it again or remove it")
    for key, members in groups.items():
        try:
            yield ScannedSample(key, members, read_record(raw, key, members), None)
        except SampleError as error:
            yield ScannedSample(key, members, None, error)


def _plain_members(shard: str, raw: io.FileIO) -> Iterator[tarfile.TarInfo]:
    file = HeaderFile(raw)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise ShardError(f"shard {shard}: member {member.name!r} is refused: it is a link or no plain file")
                yield member
            file.seek(tar.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, ShardError):
            raise
        if raw.seek(0, os.SEEK_END) == 0:
            raise ShardError(f"shard {shard} is empty: the file has no byte; make it again or remove it") from error
        raise ShardError(
            f"shard {shard} is truncated or no plain tar ({error}); copy it again. Compressed tars are not read, since "
            "members are found by their offset"
        ) from error
    if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise ShardError(
            f"shard {shard} is truncated or damaged: no end mark at byte {tar.offset}; copy it again or write it anew"
        )
    file.detach()


class HeaderFile(io.BufferedReader):
    """Limits what tarfile reads at once, because tarfile trusts the length that a header claims for the next one."""

    def read(self, size: int | None = -1) -> bytes:
        """Read, but refuse to read more than a header can need."""
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def read_record(raw: io.FileIO, key: str, members: Members) -> Record:
    """Read and check the JSON of one sample.

    Raises:
        SampleError: Its members or its JSON are wrong.
    """
    where = f"key {key!r}"
    media = media_endings(members)
    check_media(media, where)
    if "json" not in members:
        raise MembersError(f"{where}: no JSON member; add {key}.json with its conversations, or drop the sample")
    offset, size = members["json"]
    if size > MAX_JSON_BYTES:
        raise MalformedJsonError(
            f"{where}: its JSON has {size} bytes, more than the {MAX_JSON_BYTES} that are read; split its conversations"
        )
    raw.seek(offset)
    return parse_record(raw.read(size), where=where, media=MediaCount.of(media))
