"""Files on object stores and web servers: ``s3://``, ``gs://``, ``http(s)://``, ``hf://`` and others of fsspec.

fsspec reads credentials, endpoints and proxies from the environment (``AWS_PROFILE``,
``AWS_ENDPOINT_URL``, ``HF_TOKEN``, ...) or from its configuration (``FSSPEC_S3_ANON=true``, or a file in
``~/.config/fsspec``); this project has no settings for them. A url may have a signature after ``?``; messages show it.
"""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec

from datamodules.errors import ShardError

_log = logging.getLogger(__name__)

_DELAYS_S = (1.0, 2.0, 4.0, 8.0)  # between attempts
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "hf": "huggingface-hub", "az": "adlfs"}
_VERSION_NAMES = ("ETag", "etag", "blob_id", "generation", "md5Hash", "Last-Modified", "LastModified", "last_modified")

Result = TypeVar("Result")


class RemoteFile(NamedTuple):
    """One version of a remote file."""

    url: str
    size: int  # bytes
    version: str  # changes with the content: an etag or the modification time; may be empty

    @property
    def name(self) -> str:
        """The last part of its path."""
        return remote_name(self.url)


class MissingFileError(ShardError):
    """There is no such file, or it may not be read; stores often do not say which."""


def is_remote(path: str) -> bool:
    """Whether this is a url of another machine rather than a local path or ``file://``."""
    return "://" in path and not path.startswith(("file://", "local://"))


def remote_name(url: str) -> str:
    """The last part of a url's path."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def find_remote(url: str, *, fresh: bool = False) -> RemoteFile:
    """Ask for a remote file's size and version.

    Args:
        url: The file.
        fresh: Ask the store again, even if this process has asked before.

    Returns:
        The file as it is now.

    Raises:
        MissingFileError: It does not exist.
        ShardError: The store cannot be reached, or does not state the size, by which a download is checked.
    """
    filesystem, path = _open_filesystem(url)
    if fresh:
        filesystem.invalidate_cache()
    info: dict[str, Any] = _retry(url, lambda: filesystem.info(path))
    if info.get("type") == "directory":
        raise ShardError(f"{url} is a folder; name a shard, or end the url with '/' to read the folder's shards")
    if info.get("size") is None:
        raise ShardError(f"the server does not state the size of {url}; serve it as a plain file, not compressed")
    version = next((str(info[name]) for name in _VERSION_NAMES if info.get(name)), "")
    return RemoteFile(url, int(info["size"]), version)


def list_remote(pattern: str) -> list[str]:
    """Urls of the files that match a glob pattern, sorted.

    Raises:
        ShardError: The store cannot be reached.
    """
    filesystem, path = _open_filesystem(pattern)
    filesystem.invalidate_cache()
    return sorted(filesystem.unstrip_protocol(name) for name in _retry(pattern, lambda: filesystem.glob(path)))


def read_remote(url: str) -> bytes:
    """Read a small file.

    Raises:
        MissingFileError: It does not exist.
        ShardError: The store cannot be reached.
    """
    filesystem, path = _open_filesystem(url)
    data: bytes = _retry(url, lambda: filesystem.cat_file(path))
    return data


def download(remote: RemoteFile, target: Path) -> None:
    """Download a file and check that it is the expected version.

    Raises:
        MissingFileError: It no longer exists.
        ShardError: The store cannot be reached, or the file changed since ``remote`` was made.
    """
    filesystem, path = _open_filesystem(remote.url)

    def fetch() -> None:
        filesystem.get_file(path, str(target))
        size = target.stat().st_size
        now = find_remote(remote.url, fresh=True)
        if now != remote:
            raise ShardError(f"{remote.url} changed since it was indexed; start again to read the new one")
        if size != remote.size:
            raise OSError(f"{size} of {remote.size} bytes came")

    _retry(remote.url, fetch)


def _open_filesystem(url: str) -> tuple[Any, str]:
    """The filesystem, and the file's path in it. Opened each time: a forked process may not use its parent's."""
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https") and "client_kwargs" not in fsspec.config.conf.get(protocol, {}):
            options["client_kwargs"] = {"timeout": _http_timeout()}
        filesystem, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "the package it names")
        raise ShardError(f"{url} cannot be read: {error}; pip install {package}") from error
    except ValueError as error:
        raise ShardError(f"{url} cannot be read: {error}; is the url spelled right?") from error
    return filesystem, str(path)


def _http_timeout() -> Any:
    """Limits the time without new bytes. The default limits the complete download to five minutes."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)


def _retry(url: str, action: Callable[[], Result]) -> Result:
    for delay in (*_DELAYS_S, None):
        try:
            return action()
        except ShardError:
            raise
        except Exception as error:  # every store has its own exceptions
            cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
            reason = f"{type(cause).__name__}: {cause}"
            if _is_missing(url, error):
                raise MissingFileError(
                    f"{url} does not exist or may not be read ({reason}); check the url and the credentials"
                ) from error
            if delay is None or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
                raise ShardError(
                    f"{url} cannot be downloaded ({reason}); check network, store and disk, then start again"
                ) from error
            _log.warning("%s: %s; trying again in %g s", url, reason, delay)
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _is_missing(url: str, error: Exception) -> bool:
    status = getattr(error, "status", getattr(error.__cause__, "status", None))
    if status is not None:
        return status in (401, 403, 404, 410)
    if url.startswith("http") and error.__cause__ is not None:
        return False  # fsspec reports an unreachable server as FileNotFoundError
    return isinstance(error, FileNotFoundError | PermissionError)
