"""Only allowed hosts at public addresses are fetched, within bounds of size and time."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from membridge.serving.api_errors import ApiError
from membridge.serving.public_download import DownloadRules, download, is_public

CONTENT = bytes(range(256)) * 100


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif kind == "status":
            self.send_error(int(rest))
        elif kind == "drip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.send_response(200)
            if kind != "unstated":
                self.send_header("Content-Length", str(len(CONTENT) * (2 if kind == "short" else 1)))
            self.end_headers()
            self.wfile.write(CONTENT)

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def rules(port: int, **changes: Any) -> DownloadRules:
    return DownloadRules(**{"hosts": {f"127.0.0.1:{port}"}, "max_bytes": 1 << 20, "seconds": 20, **changes})


def allowed(port: int, **changes: Any) -> DownloadRules:
    return rules(port, may_connect=lambda address: address == "127.0.0.1", **changes)


@pytest.mark.parametrize("kind", ["file", "unstated", "to//file", "to//to//file"])
def test_a_file_of_an_allowed_host_is_downloaded(port: int, kind: str) -> None:
    target = io.BytesIO()
    digest = download(f"http://127.0.0.1:{port}/{kind}", target, allowed(port))
    assert target.getvalue() == CONTENT
    assert digest == download(f"http://127.0.0.1:{port}/file?x=1", io.BytesIO(), allowed(port))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


def refusal(url: str, chosen: DownloadRules) -> ApiError:
    with pytest.raises(ApiError) as caught:
        download(url, io.BytesIO(), chosen)
    return caught.value


def test_an_allowed_host_with_a_private_address_is_refused_before_anything_is_sent(port: int) -> None:
    error = refusal(f"http://127.0.0.1:{port}/file", rules(port))
    assert (error.status, error.code) == (400, "url_refused")
    assert "only public addresses" in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/file",
        "http://127.0.0.2:{port}/file",
        "http://127.0.0.1/file",
        "http://127.1:{port}/file",
        "http://2130706433:{port}/file",
        "http://[::1]:{port}/file",
        "http://user:word@127.0.0.1:{port}/file",
        "http://127.0.0.1:{port}\\@elsewhere/file",
        "http://127.0.0.1:{port}@elsewhere/file",
        "http://127.0.0.1:99999/file",
        "ftp://127.0.0.1:{port}/file",
        "gopher://127.0.0.1:{port}/file",
        "http:///file",
        "http://127.0.0.1:{port}/a b",
        "http://127.0.0.1:{port}/a\r\nX: y",
        "http://127.0.0.1:{port}/ü",
    ],
)
def test_urls_of_other_hosts_ports_and_schemes_are_refused(port: int, url: str) -> None:
    assert refusal(url.format(port=port), allowed(port)).code == "url_refused"


@pytest.mark.parametrize(
    "target", ["http://localhost:{port}/file", "http://169.254.169.254/latest", "file:///etc/hosts"]
)
def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(port: int, target: str) -> None:
    url = f"http://127.0.0.1:{port}/to/{target.format(port=port)}"
    assert refusal(url, allowed(port)).code == "url_refused"


def test_a_redirect_to_an_allowed_name_with_a_private_address_is_refused(port: int) -> None:
    chosen = rules(port, may_connect=is_public_but_first(), hosts={f"127.0.0.1:{port}", f"localhost:{port}"})
    error = refusal(f"http://127.0.0.1:{port}/to/http://localhost:{port}/file", chosen)
    assert "private or reserved" in error.message


def is_public_but_first() -> Callable[[str], bool]:
    """Takes the first address for public, whatever it is."""
    seen: list[str] = []

    def check(address: str) -> bool:
        seen.append(address)
        return len(seen) == 1 or is_public(address)

    return check


def test_one_private_address_among_public_ones_is_enough_to_refuse(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert refusal("http://good.example/", rules(port, hosts={"good.example"})).code == "url_refused"


def test_the_name_is_resolved_once_and_the_checked_address_is_connected_to(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers otherwise the second time gains nothing."""
    looked_up: list[str] = []
    connected: list[str] = []
    resolve, connect = socket.getaddrinfo, socket.create_connection

    def once(host: str, *arguments: Any, **options: Any) -> Any:
        if host != "good.example":
            return resolve(host, *arguments, **options)
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8" if len(looked_up) == 1 else "10.0.0.1", port))]

    def to_this_machine(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address[0])
        return connect(("127.0.0.1", address[1]), timeout=timeout)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    monkeypatch.setattr(socket, "create_connection", to_this_machine)
    target = io.BytesIO()
    download(f"http://good.example:{port}/file", target, rules(port, hosts={f"good.example:{port}"}))
    assert target.getvalue() == CONTENT
    assert (looked_up, connected) == (["good.example"], ["8.8.8.8"])


@pytest.mark.parametrize("kind", ["file", "unstated"])
def test_a_file_that_is_too_large_is_refused(port: int, kind: str) -> None:
    error = refusal(f"http://127.0.0.1:{port}/{kind}", allowed(port, max_bytes=len(CONTENT) - 1))
    assert (error.status, error.code) == (413, "media_too_large")


@pytest.mark.parametrize("path", ["status/404", "status/500", "short/", "to//to//to//to//file"])
def test_what_is_no_complete_file_is_refused(port: int, path: str) -> None:
    assert refusal(f"http://127.0.0.1:{port}/{path}", allowed(port)).code == "url_unreachable"


def test_a_host_that_sends_a_byte_now_and_then_is_given_up(port: int) -> None:
    begin = time.monotonic()
    error = refusal(f"http://127.0.0.1:{port}/drip", allowed(port, seconds=1.0))
    assert (error.code, "too long" in error.message) == ("url_unreachable", True)
    assert time.monotonic() - begin < 10


def test_nothing_is_fetched_where_nobody_listens(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        free = unused.getsockname()[1]
    chosen = allowed(port, hosts={f"127.0.0.1:{free}"})
    assert refusal(f"http://127.0.0.1:{free}/", chosen).code == "url_unreachable"
