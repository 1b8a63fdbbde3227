"""Checks every request before anything of its body is read, and bounds how many there are and how long they take."""

import asyncio
import hashlib
import hmac
import json
import logging
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from membridge.serving.api_errors import ApiError, as_api_error

_LOG = logging.getLogger("membridge.serving")
_OPEN_PATHS = ("/health",)
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}


class GuardRules(NamedTuple):
    """What the guard checks."""

    api_key: str | None  # None: no key is needed
    only_loopback_names: bool  # refuse other names in Host, as a page that rebinds its name sends, and in Origin
    connections: int
    seconds: float


class RequestGuard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        rules: What is checked.
    """

    def __init__(self, app: ASGIApp, rules: GuardRules) -> None:
        self._app = app
        self._rules = rules
        self._key = None if rules.api_key is None else _digest(rules.api_key.encode())
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        self._in_progress += 1
        try:
            self._check(scope)
            async with asyncio.timeout(self._rules.seconds):
                await self._app(scope, receive, watched)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:
            if isinstance(error, TimeoutError):
                error = ApiError(504, "the request took too long; ask for less", code="request_timeout")
            elif not isinstance(error, ApiError):
                _LOG.exception("an unexpected error in %s %s", scope["method"], scope["path"])
            if not has_started:
                await _send_error(as_api_error(error), send)
        finally:
            self._in_progress -= 1

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._rules.only_loopback_names:
            host = headers.get(b"host", b"").decode("latin-1")
            if not _is_loopback(host):
                raise ApiError(
                    403,
                    f"the server was asked for as {host[:80]!r}; ask for it as localhost or 127.0.0.1, or have it "
                    "started with an API key",
                    code="host_refused",
                )
            # A browser sends forms and empty bodies for a page of any site without asking the server first.
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and not _is_loopback(origin.partition("://")[2]):
                raise ApiError(
                    403,
                    f"the request comes from a web page of {origin[:80]!r}; send it from a page of localhost, or have "
                    "the server started with an API key",
                    code="origin_refused",
                )
        if scope["path"] in _OPEN_PATHS:
            return
        if self._key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            is_right = hmac.compare_digest(_digest(given.strip()), self._key)
            if scheme.lower() != b"bearer" or not is_right:
                raise ApiError(
                    401, "the API key is missing or wrong; send 'Authorization: Bearer KEY'", code="invalid_api_key"
                )
        if self._in_progress > self._rules.connections:
            raise ApiError(503, "the server has too many requests in progress; try again later", code="overloaded")


def _is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its name."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in _LOOPBACK_NAMES


def _digest(key: bytes) -> bytes:
    """Keys are compared as digests, so that the time of the comparison does not depend on them, nor on their length."""
    return hashlib.sha256(key).digest()


async def _send_error(error: ApiError, send: Send) -> None:
    body = json.dumps(error.document).encode()
    headers = {**error.headers, "content-type": "application/json", "content-length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
