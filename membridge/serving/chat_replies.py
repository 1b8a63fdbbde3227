"""Answers in OpenAI's form: one document, or a stream of server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from membridge.serving.answering import Answer, OnText
from membridge.serving.api_errors import as_api_error

StartAnswer = Callable[[OnText | None], Coroutine[Any, Any, Answer]]
"""Answers, and gives the pieces of the text to the function as they come."""


def json_reply(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in ASCII: names of files may hold what no UTF-8 can write."""
    return Response(json.dumps(document).encode(), status, headers, "application/json")


class ReplyForm:
    """Writes the documents of one answer.

    Args:
        model: Name of the model.
    """

    def __init__(self, model: str) -> None:
        self._common = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def complete(self, answer: Answer) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage(answer)}

    def part(self, delta: dict[str, str], answer: Answer | None = None) -> dict[str, Any]:
        """A piece of a streamed answer.

        Args:
            delta: What is new in the message.
            answer: The complete answer, in the last piece.
        """
        reason = None if answer is None else _finish_reason(answer)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_part(self, answer: Answer) -> dict[str, Any]:
        """The last piece where the client asks for usage."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(answer)}


def usage(answer: Answer) -> dict[str, Any]:
    """How many tokens a question took."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "visual_tokens": answer.visual_tokens},
    }


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.is_cut else "stop"


class AnswerInProgress:
    """An answer that runs, and the pieces of its text that wait to be sent.

    Args:
        start: Starts the answer; gets what takes the pieces, from any thread.
    """

    def __init__(self, start: StartAnswer) -> None:
        loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def on_text(text: str) -> None:
            loop.call_soon_threadsafe(self._pieces.put_nowait, text)

        self.task = asyncio.create_task(start(on_text))
        self.task.add_done_callback(lambda task: self._pieces.put_nowait(None))

    async def first_piece(self) -> str | None:
        """Wait for the first piece, so that an error before it still becomes the status of the reply.

        Returns:
            The piece; None if the answer has ended without any.
        """
        piece = await self._pieces.get()
        if piece is None:
            await self.task
        return piece

    async def pieces(self, first: str | None) -> AsyncIterator[str]:
        """All pieces of the text."""
        piece = first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()


class EventStream(StreamingResponse):
    """A streamed answer. When the client goes away, the answer is cancelled.

    Args:
        answer: The answer, whose first piece was waited for.
        first: That piece.
        form: Writes the documents.
        with_usage: Whether the client asked for usage.
    """

    def __init__(self, answer: AnswerInProgress, first: str | None, form: ReplyForm, *, with_usage: bool) -> None:
        self._answer = answer
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._events(first, form, with_usage), headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.task.cancel()

    async def _events(self, first: str | None, form: ReplyForm, with_usage: bool) -> AsyncIterator[bytes]:
        yield _event(form.part({"role": "assistant", "content": ""}))
        async for piece in self._answer.pieces(first):
            yield _event(form.part({"content": piece}))
        try:
            answer = await self._answer.task
        except Exception as error:  # the status was sent long ago
            yield _event(as_api_error(error).document)
            return
        yield _event(form.part({}, answer))
        if with_usage:
            yield _event(form.usage_part(answer))
        yield b"data: [DONE]\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()
