"""Finds the file of a video or picture that a request names: an upload, a local file, a data URL or a download."""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from membridge.serving.api_errors import ApiError
from membridge.serving.chat_request import MediaPart
from membridge.serving.public_download import DownloadRules, check_url, download
from membridge.serving.stored_files import FileStore

_LONGEST_SHOWN = 100


@dataclass(frozen=True)
class MediaFile:
    """An open file of a video or picture, to be closed. Its name on disk may be gone or used for another file by now.

    Args:
        path: Leads to the open file itself.
        name: Its name for messages.
        key: Equal keys have equal content.
        resources: What is closed with it.
    """

    path: Path
    name: str
    key: str
    resources: contextlib.ExitStack

    def close(self) -> None:
        """Close the file, and give back the room that was reserved for it."""
        self.resources.close()

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MediaSources:
    """Opens the files that requests name.

    Args:
        store: The uploads; downloads are written into its folder and count too.
        rules: What may be downloaded.
        root: Folder of the local files that may be read, with all below it; None: no local file.
    """

    def __init__(self, store: FileStore, rules: DownloadRules, root: Path | None) -> None:
        self._store = store
        self._rules = rules
        self._root = None if root is None else root.resolve(strict=True)

    def open(self, part: MediaPart) -> MediaFile:
        """Open a file. Blocks while it is downloaded.

        Args:
            part: What the request says of it.

        Raises:
            ApiError: There is no such file, or it may not be read.
        """
        try:
            with contextlib.ExitStack() as stack:
                file, name, key = self._opened(part, stack)
                stack.callback(file.close)
                return MediaFile(Path(f"/proc/self/fd/{file.fileno()}"), name, key, stack.pop_all())
        except ApiError as error:
            error.param = error.param or part.where
            raise

    def _opened(self, part: MediaPart, stack: contextlib.ExitStack) -> tuple[BinaryIO, str, str]:
        if part.file_id is not None:
            return self._uploaded(part.file_id)
        assert part.url is not None
        scheme = part.url.partition(":")[0].lower() if ":" in part.url[:10] else ""
        if scheme == "data":
            return self._inline(part.url)
        if scheme in ("http", "https"):
            check_url(part.url, self._rules.hosts)
            stack.enter_context(self._store.reserve(self._rules.max_bytes))
            target = tempfile.TemporaryFile(dir=self._store.folder)  # noqa: SIM115  the caller closes it
            stack.callback(target.close)
            key = download(part.url, target, self._rules)
            return target, urlsplit(part.url).path.rpartition("/")[2][:_LONGEST_SHOWN] or "download", f"sha256 {key}"
        if part.url.startswith("file-"):
            return self._uploaded(part.url)
        return self._local(part.url)

    def _uploaded(self, identity: str) -> tuple[BinaryIO, str, str]:
        stored, file = self._store.open(identity)
        return file, stored.name, stored.id

    def _inline(self, url: str) -> tuple[BinaryIO, str, str]:
        header, comma, data = url.partition(",")
        try:
            if not comma or not header.endswith(";base64"):
                raise ValueError
            content = base64.b64decode(data, validate=True)
        except (ValueError, binascii.Error):
            raise ApiError(
                400, "a data URL must be data:TYPE;base64, followed by base64 without spaces", code="bad_value"
            ) from None
        target = tempfile.TemporaryFile(dir=self._store.folder)  # noqa: SIM115  the caller closes it
        target.write(content)
        target.flush()
        return target, "data URL", f"sha256 {hashlib.sha256(content).hexdigest()}"

    def _local(self, url: str) -> tuple[BinaryIO, str, str]:
        """Open a file below the root.

        The open file is checked again, because a link may change between check and opening.
        """
        if self._root is None:
            raise ApiError(
                400,
                "this server reads no local files; upload the file by POST /v1/files, or ask the operator to start the "
                "server with --root",
                code="path_refused",
            )
        name = self._local_name(url)
        refusal = ApiError(
            400, f"there is no file {name[:_LONGEST_SHOWN]!r} below the server's root", code="file_not_found"
        )
        try:
            resolved = (self._root / name).resolve(strict=True)
            if not resolved.is_relative_to(self._root):
                raise refusal
            descriptor = os.open(resolved, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError, RuntimeError):  # one message for all, which tells nothing of what is elsewhere
            raise refusal from None
        found = os.fstat(descriptor)
        where = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not stat.S_ISREG(found.st_mode) or not where.is_relative_to(self._root):
            os.close(descriptor)
            raise refusal
        file = os.fdopen(descriptor, "rb")
        identity = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
        return file, name, f"local {' '.join(map(str, identity))}"

    def _local_name(self, url: str) -> str:
        if not url.lower().startswith("file:"):
            return url
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ApiError(400, "a file URL must be file:///PATH, without a host", code="path_refused")
        return unquote(parts.path, errors="surrogateescape")
