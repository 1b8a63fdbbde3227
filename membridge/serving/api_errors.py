"""Errors that a client of the server sees, in OpenAI's form. None shows a path of the server or a stack trace."""

from typing import Any

import torch

from components.language.chat_template import ChatError
from components.language.text_limits import TextLimitError
from datamodules.errors import OversizedMediaError, SampleError

BUSY_SECONDS = 5
"""After how many seconds a client may try again, in ``Retry-After``."""

_CODES = {"media": "media_unreadable", "sample": "media_part"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused or fails.

    Args:
        status: HTTP status.
        message: What is wrong, and what to do.
        code: A word for programs, such as ``media_unreadable``.
        param: Field of the request that is wrong.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    @property
    def document(self) -> dict[str, Any]:
        """The body of the reply."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        found = {}
        if self.status in (429, 503):
            found["Retry-After"] = str(BUSY_SECONDS)
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        if self.status in (401, 403, 408, 413, 415):  # the rest of the body is not read
            found["Connection"] = "close"
        return found


def as_api_error(error: BaseException) -> ApiError:
    """What a client sees of an error.

    Args:
        error: The error.

    Returns:
        A 4xx if the request is at fault, else a 5xx that says nothing of the server's inside.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OversizedMediaError):
        return ApiError(413, str(error), code="media_too_large")
    if isinstance(error, SampleError):
        return ApiError(400, str(error), code=_CODES.get(error.kind, f"media_{error.kind.replace(' ', '_')}"))
    if isinstance(error, TextLimitError):
        return ApiError(
            400,
            "the conversation with its videos and max_tokens is longer than the model's context; shorten it, lower "
            "max_tokens, or show fewer or shorter videos",
            code="context_length_exceeded",
            param="messages",
        )
    if isinstance(error, ChatError):
        return ApiError(
            400,
            "the model's chat template does not accept these turns; send at most one system message at the beginning, "
            "then user and assistant in turn, the user last, without control characters",
            code="turns_refused",
            param="messages",
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return ApiError(503, "the server is out of memory for this request; show fewer videos", code="out_of_memory")
    return ApiError(500, "the server failed with an unexpected error; its log says more", code="internal_error")
