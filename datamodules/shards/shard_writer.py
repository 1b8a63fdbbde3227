"""Writes WebDataset tar shards: one JSON member a sample, and its media."""

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from datamodules.errors import SampleError
from datamodules.shards.member_names import MEDIA_ENDINGS, MediaCount, check_key, check_media, format_ending
from datamodules.shards.schema import MAX_JSON_BYTES, parse_record


class ShardWriter:
    """Packs samples into ``{prefix}-000000.tar``, ``{prefix}-000001.tar``, ...

    A shard is written under a temporary name and renamed when it is complete. If the ``with`` block ends with an
    exception, the unfinished shard is removed. Equal samples give equal bytes.

    Args:
        prefix: Folder and start of the shards' names; the folder is created.
        max_samples: Samples of a shard.
        max_bytes: A shard of this size or more gets no further sample.
        first_number: Number of the first shard; above 0 if earlier shards exist.

    Raises:
        ValueError: A limit is not positive.
    """

    def __init__(
        self, prefix: str | Path, *, max_samples: int = 10_000, max_bytes: int = 1 << 30, first_number: int = 0
    ) -> None:
        if max_samples < 1 or max_bytes < 1:
            raise ValueError(f"max_samples and max_bytes must be positive, got {max_samples} and {max_bytes}")
        self.prefix = Path(prefix)
        self.max_samples = max_samples
        self.max_bytes = max_bytes
        self.first_number = first_number
        self.paths: list[Path] = []
        self._tar: tarfile.TarFile | None = None
        self._keys: set[str] = set()

    @property
    def next_number(self) -> int:
        """Number of the shard that is being written; all before it are complete."""
        return self.first_number + len(self.paths)

    def write(
        self, key: str, record: Mapping[str, Any], media: bytes | Path | None = None, ending: str | None = None
    ) -> None:
        """Add one sample.

        Args:
            key: Name of the sample, unique in its shard; no dot after the last slash, because WebDataset splits there.
            record: Its JSON member; see ``datamodules.shards.schema``.
            media: Bytes of its video, image or cached features, or the path of a file; None for text only. A file is
                copied in pieces, so it may be larger than memory.
            ending: Ending of the media member, such as ``mp4``.

        Raises:
            SampleError: The record does not follow the schema or is too large: reading it would fail.
            ValueError: The key or the ending cannot be used.
        """
        if (media is None) != (ending is None):
            raise ValueError(f"sample {key!r}: media and its ending go together, got ending {ending!r}")
        self._write(key, record, [] if media is None or ending is None else [(media, ending)])

    def write_several(self, key: str, record: Mapping[str, Any], media: Sequence[tuple[bytes | Path, str]]) -> None:
        """Add one sample with several media, as members that are numbered in this order.

        Args:
            key: See ``write``.
            record: See ``write``.
            media: Of each, the bytes or the path of a file, and its ending, such as ``jpg``.

        Raises:
            SampleError: See ``write``.
            ValueError: See ``write``.
        """
        self._write(key, record, [(data, f"{number}.{ending}") for number, (data, ending) in enumerate(media)])

    def _write(self, key: str, record: Mapping[str, Any], media: Sequence[tuple[bytes | Path, str]]) -> None:
        check_key(key)
        endings = [ending for _, ending in media]
        for ending in endings:
            if format_ending(ending) not in MEDIA_ENDINGS:
                raise ValueError(
                    f"sample {key!r}: media ending {ending!r} is not one of {', '.join(sorted(MEDIA_ENDINGS))}"
                )
        check_media(endings, f"sample {key!r}")
        encoded = json.dumps(record, ensure_ascii=False).encode()
        if len(encoded) > MAX_JSON_BYTES:
            raise SampleError(
                f"sample {key!r}: its JSON has {len(encoded)} bytes, more than the {MAX_JSON_BYTES} that are read; "
                "write several samples about the same media"
            )
        parse_record(encoded, where=f"sample {key!r}", media=MediaCount.of(endings))
        if self._tar is not None and (len(self._keys) >= self.max_samples or self._tar.offset >= self.max_bytes):
            self._close_shard()
        tar = self._tar or self._open_shard()
        if key in self._keys:
            raise ValueError(f"sample key {key!r} is twice in {self._path()}; keys must be unique in a shard")
        self._keys.add(key)
        for data, ending in media:
            _add(tar, f"{key}.{ending}", data)
        _add(tar, f"{key}.json", encoded)

    def close(self) -> None:
        """Finish the last shard."""
        if self._tar is not None:
            self._close_shard()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.close()
            self._temporary().unlink()

    def _path(self) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}-{self.next_number:06d}.tar")

    def _temporary(self) -> Path:
        path = self._path()
        return path.with_name(f".{path.name}.{os.getpid()}.writing")

    def _open_shard(self) -> tarfile.TarFile:
        path = self._temporary()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115  stays open over many writes
        return self._tar

    def _close_shard(self) -> None:
        assert self._tar is not None
        self._tar.close()
        self._tar = None
        os.replace(self._temporary(), self._path())
        self.paths.append(self._path())
        self._keys.clear()


def _add(tar: tarfile.TarFile, name: str, data: bytes | Path) -> None:
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
        member = tarfile.TarInfo(name)
        member.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        tar.addfile(member, file)
