"""Runs the model's work for requests, as many at once as allowed, and sends answers as a whole or in pieces."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from membridge.serving.answering import Answer, OnText
from membridge.serving.api_errors import ApiError, as_api_error
from membridge.serving.chat_replies import AnswerInProgress, EventStream, ReplyForm, StartAnswer, json_reply
from membridge.serving.chat_request import AnswerOptions
from membridge.serving.request_bodies import wait_until_gone
from membridge.serving.serving_limits import ServingLimits

T = TypeVar("T")
CLIENT_GONE = 499
"""Status of a reply that nobody reads, as in nginx's log."""

_LOG = logging.getLogger("membridge.serving")


class AnswerDelivery:
    """See the module.

    Args:
        name: Name of the model, for the replies.
        limits: Limits of the server.

    Attributes:
        num_waiting: Requests that are answered or wait for the model.
    """

    def __init__(self, name: str, limits: ServingLimits) -> None:
        self.num_waiting = 0
        self._name = name
        self._limits = limits

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work on the model, and cancel it when it takes too long.

        Raises:
            ApiError: Too many requests wait, it took too long, or it failed.
        """
        with contextlib.closing(work), self._slot():
            try:
                async with asyncio.timeout(self._limits.answer_seconds):
                    return await work
            except TimeoutError:
                raise ApiError(
                    504,
                    f"there was no answer within {self._limits.answer_seconds:g} s; ask for a shorter one, show less, "
                    "or try again later",
                    code="answer_timeout",
                ) from None
            except Exception as error:
                found = as_api_error(error)
                if found.status >= 500:
                    _LOG.exception("a request failed")
                raise found from error

    async def reply(self, request: Request, options: AnswerOptions, start: StartAnswer) -> Response:
        """Answer a request. When the client goes away, the answer is cancelled.

        Args:
            request: The request, whose body was read.
            options: Whether the answer is sent in pieces.
            start: Starts the answer.
        """

        def start_in_turn(on_text: OnText | None) -> Coroutine[Any, Any, Answer]:
            return self.run(start(on_text))

        form = ReplyForm(self._name)
        if options.streams:
            return await _stream(request, options, AnswerInProgress(start_in_turn), form)
        task = asyncio.create_task(start_in_turn(None))
        if await _ended_before_client(request, task):
            return json_reply(form.complete(task.result()))
        return Response(status_code=CLIENT_GONE)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        if self.num_waiting >= self._limits.waiting:
            raise ApiError(
                503, f"{self.num_waiting} requests are waiting for the model; try again later", code="overloaded"
            )
        self.num_waiting += 1
        try:
            yield
        finally:
            self.num_waiting -= 1


async def _stream(request: Request, options: AnswerOptions, answer: AnswerInProgress, form: ReplyForm) -> Response:
    waiting = asyncio.create_task(answer.first_piece())
    try:
        if await _ended_before_client(request, waiting):
            return EventStream(answer, waiting.result(), form, with_usage=options.with_usage)
    except BaseException:
        answer.task.cancel()
        raise
    answer.task.cancel()
    return Response(status_code=CLIENT_GONE)


async def _ended_before_client(request: Request, task: asyncio.Task[Any]) -> bool:
    """Wait for a task; cancel it and give False if the client goes away first."""
    gone = asyncio.create_task(wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
