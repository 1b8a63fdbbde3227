"""The server's application: a model, its routes, and the guard around them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from components.model import VideoLanguageModel
from membridge.serving.answer_delivery import CLIENT_GONE, AnswerDelivery
from membridge.serving.answering import ChatModel
from membridge.serving.api_errors import ApiError, as_api_error
from membridge.serving.chat_replies import json_reply
from membridge.serving.chat_routes import ChatRoutes
from membridge.serving.file_routes import FileRoutes
from membridge.serving.media_sources import MediaSources
from membridge.serving.public_download import DownloadRules
from membridge.serving.request_guard import GuardRules, RequestGuard
from membridge.serving.serving_limits import ServingOptions
from membridge.serving.session_routes import SessionRoutes
from membridge.serving.stored_files import FileStore
from membridge.serving.video_sessions import VideoSessions

CLEANING_SECONDS = 5.0
"""How often what is not used is removed."""


def build_application(model: VideoLanguageModel, options: ServingOptions) -> ASGIApp:
    """Build the application.

    Args:
        model: A model in evaluation mode that reads pixels.
        options: What the operator chooses.
    """
    limits = options.limits
    store = FileStore(options.folder, limits.stored_bytes, limits.stored_seconds)
    rules = DownloadRules(frozenset(options.hosts), limits.upload_bytes, limits.answer_seconds)
    chat = ChatModel(model, MediaSources(store, rules, options.root), limits)
    sessions = VideoSessions(chat, limits, options.folder)
    delivery = AnswerDelivery(options.name, limits)

    async def health(request: Request) -> Response:
        state = {"status": "ok", "answering": delivery.num_waiting, "sessions": len(sessions)}
        return json_reply({**state, "stored_bytes": store.used_bytes})

    async def clean() -> None:
        while True:
            await asyncio.sleep(CLEANING_SECONDS)
            sessions.remove_unused()
            store.remove_unused()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        cleaning = asyncio.create_task(clean())
        try:
            yield
        finally:
            cleaning.cancel()
            await run_in_threadpool(chat.stop)

    app = Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            *ChatRoutes(options.name, chat, delivery, limits).routes(),
            *FileRoutes(store, limits).routes(),
            *SessionRoutes(sessions, delivery, limits, model.training_facts.max_new_tokens).routes(),
        ],
        lifespan=lifespan,
        exception_handlers={
            ApiError: _reply_of_error,
            HTTPException: _reply_of_error,
            ClientDisconnect: _reply_of_error,
        },
    )
    longest_upload = limits.upload_bytes / limits.body_bytes_per_second
    seconds = limits.body_seconds + longest_upload + 2 * limits.answer_seconds
    return RequestGuard(app, GuardRules(options.api_key, options.only_loopback_names, limits.connections, seconds))


async def _reply_of_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path[:100]}: {error.detail}; docs/using.md lists what there is"
        error = ApiError(error.status_code, message, code="no_such_route")
    found = as_api_error(error)
    return json_reply(found.document, found.status, found.headers)
