"""Downloads a file from an allowed host, and from public addresses only.

A server that fetches what its clients name could be used to reach machines behind its firewall. So every host, of
redirects too, must be listed by the operator. Its name is resolved once, every address must be public, and the
connection goes to an address that was checked, whatever the name resolves to later. Proxies of the environment are not
used.
"""

import contextlib
import hashlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from membridge.serving.api_errors import ApiError

_CHUNK = 1 << 16
_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)


class DownloadRules(NamedTuple):
    """What may be downloaded."""

    hosts: Collection[str]  # names, or NAME:PORT for other ports than 80 and 443; lower case
    max_bytes: int
    seconds: float  # for everything, redirects included
    may_connect: Callable[[str], bool] = lambda address: is_public(address)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Not public are loopback, link-local (where clouds serve credentials), private, shared, multicast and reserved
    addresses, and IPv6 addresses that stand for an IPv4 address (mapped, NAT64, 6to4, Teredo).
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip.sixtofour is not None or ip.teredo is not None):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def download(url: str, target: BinaryIO, rules: DownloadRules) -> str:
    """Download a file.

    Args:
        url: ``http://`` or ``https://``.
        target: File to write.
        rules: What may be downloaded.

    Returns:
        SHA-256 of the content.

    Raises:
        ApiError: The URL is not allowed, cannot be reached, or its file is too large.
    """
    deadline = _Deadline(rules.seconds)
    try:
        for _ in range(_MOST_REDIRECTS + 1):
            with _response(url, rules, deadline) as response:
                if response.status not in _REDIRECTS:
                    digest = _copy(response, target, rules.max_bytes)
                    if deadline.has_passed:  # the file may have ended where the connection was cut
                        raise TimeoutError
                    return digest
                location = response.getheader("Location") or ""
            url = urljoin(url, location)
        raise ApiError(400, f"the URL redirects more than {_MOST_REDIRECTS} times", code="url_unreachable")
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = "it took too long" if deadline.has_passed else str(error) or type(error).__name__
        raise ApiError(400, f"the URL cannot be downloaded ({why[:200]})", code="url_unreachable") from error
    finally:
        deadline.cancel()


class _Deadline:
    """Shuts sockets down when time is up: a peer that sends a byte now and then never exceeds their own timeouts."""

    def __init__(self, seconds: float) -> None:
        self.has_passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        self._sockets.append(connected)
        if self.has_passed:
            self._pass()

    def cancel(self) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def check_url(url: str, hosts: Collection[str]) -> SplitResult:
    """Check a URL before any look-up.

    Raises:
        ApiError: Its scheme, host or port is not allowed.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise ApiError(400, "the URL cannot be read; write http://HOST/PATH", code="url_refused") from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _PORTS or not host or not is_plain or parts.username or parts.password:
        raise ApiError(
            400,
            "the URL must be http:// or https:// with a host, without a user name, and percent-encoded",
            code="url_refused",
        )
    allowed = f"{host}:{port}" in hosts or (host in hosts and port in (None, *_PORTS.values()))
    if not allowed:
        raise ApiError(
            400,
            f"the host {host[:100]} is not allowed; upload the file by POST /v1/files, or ask the operator to start "
            "the server with --allow-host",
            code="url_refused",
        )
    return parts


@contextlib.contextmanager
def _response(url: str, rules: DownloadRules, deadline: _Deadline) -> Iterator[http.client.HTTPResponse]:
    parts = check_url(url, rules.hosts)
    host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.sock = _connect(host, port, parts.scheme == "https", rules.may_connect)
        deadline.watch(connection.sock)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        shown = f"[{host}]" if ":" in host else host
        headers = {"Host": shown if parts.port is None else f"{shown}:{port}", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != 200 and response.status not in _REDIRECTS:
            raise ApiError(400, f"the URL's host answered with status {response.status}", code="url_unreachable")
        yield response
    finally:
        connection.close()


def _connect(host: str, port: int, is_tls: bool, may_connect: Callable[[str], bool]) -> socket.socket:
    """Resolve a name once, check every address, and connect to one of them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not addresses or not all(may_connect(address) for address in addresses):
        raise ApiError(
            400,
            f"the host {host[:100]} has a private or reserved address; only public addresses are fetched: upload the "
            "file by POST /v1/files",
            code="url_refused",
        )
    for number, address in enumerate(addresses, start=1):
        try:
            plain = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
        except OSError:
            if number == len(addresses):
                raise
            continue
        if not is_tls:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    raise AssertionError("the last address is connected to or raises")


def _copy(response: http.client.HTTPResponse, target: BinaryIO, max_bytes: int) -> str:
    digest = hashlib.sha256()
    size = 0
    stated = response.length
    while True:
        if max(size, stated or 0) > max_bytes:
            raise ApiError(413, f"the URL's file is larger than {max_bytes} bytes", code="media_too_large")
        chunk = response.read1(_CHUNK)
        if not chunk:
            break
        size += len(chunk)
        digest.update(chunk)
        target.write(chunk)
    if stated is not None and size < stated:
        raise ApiError(400, f"the URL's file ended after {size} of {stated} bytes", code="url_unreachable")
    target.flush()
    return digest.hexdigest()
