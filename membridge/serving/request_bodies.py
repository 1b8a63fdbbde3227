"""Reads bodies of requests within bounds of size and time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from membridge.serving.api_errors import ApiError
from membridge.serving.request_fields import parse_json
from membridge.serving.serving_limits import ServingLimits

_FORM_OVERHEAD = 1 << 20
_DRAIN_BYTES = 32 << 20
_DRAIN_SECONDS = 2.0


def stated_length(request: Request) -> int | None:
    """The length that a request states of its body; None if it does not."""
    stated = request.headers.get("content-length", "")
    return int(stated) if stated.isdecimal() and stated.isascii() else None


async def read_json(request: Request, limits: ServingLimits) -> Any:
    """Read a JSON body.

    Raises:
        ApiError: It is no JSON, too large, or arrives too slowly.
    """
    _check_type(request, "application/json")
    body = bytearray()
    async for chunk in bounded_body(request, limits.json_bytes, limits):
        body += chunk
    return parse_json(bytes(body))


@contextlib.asynccontextmanager
async def read_form(
    request: Request, limits: ServingLimits, *, max_bytes: int, max_files: int
) -> AsyncIterator[FormData]:
    """Read a multipart form; its files are closed afterwards.

    Args:
        request: The request.
        limits: Limits of the server.
        max_bytes: All files together.
        max_files: Number of files.

    Raises:
        ApiError: It is no such form, too large, or arrives too slowly.
    """
    _check_type(request, "multipart/form-data")
    body = bounded_body(request, max_bytes + _FORM_OVERHEAD, limits)
    parser = MultiPartParser(request.headers, body, max_files=max_files, max_fields=4 * max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(
            400, f"the body cannot be read as a multipart form ({error.message})", code="bad_form"
        ) from error
    try:
        yield form
    finally:
        await form.close()


async def bounded_body(request: Request, max_bytes: int, limits: ServingLimits) -> AsyncGenerator[bytes, None]:
    """The chunks of a body.

    Raises:
        ApiError: It is too large, or arrives more slowly than the limits allow.
    """
    chunks = request.stream()
    start, size = time.monotonic(), 0
    if (stated_length(request) or 0) > max_bytes:
        await _drain(request)
        raise _too_large(max_bytes)
    while True:
        allowed = limits.body_seconds + size / limits.body_bytes_per_second
        try:
            async with asyncio.timeout(start + allowed - time.monotonic()):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise ApiError(
                408,
                f"only {size} bytes of the body came within {allowed:.0f} s; send it faster",
                code="body_timeout",
            ) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > max_bytes:
            await _drain(request)
            raise _too_large(max_bytes)
        yield chunk


async def wait_until_gone(request: Request) -> None:
    """Wait until the client of a request whose body was read has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {max_bytes} bytes, the most that is accepted here; send less, or a file by POST "
        "/v1/files",
        code="body_too_large",
    )


async def _drain(request: Request) -> None:
    """Read and drop some more of a body: a client that still sends would not read the reply."""
    left = _DRAIN_BYTES
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _check_type(request: Request, expected: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != expected:
        raise ApiError(
            415, f"the Content-Type is {given[:80] or 'missing'!r}; expected {expected}", code="unsupported_type"
        )
