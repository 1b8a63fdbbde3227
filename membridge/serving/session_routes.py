"""Routes: sessions for videos that still play."""

import re

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from membridge.serving.answer_delivery import AnswerDelivery
from membridge.serving.api_errors import ApiError
from membridge.serving.chat_replies import json_reply
from membridge.serving.chat_request import read_answer_options
from membridge.serving.request_bodies import read_form, read_json
from membridge.serving.request_fields import Fields
from membridge.serving.serving_limits import ServingLimits
from membridge.serving.video_sessions import VideoSessions

_TIME = re.compile(r"[0-9]{1,15}")


class SessionRoutes:
    """Handlers of ``/v1/sessions``.

    Args:
        sessions: The sessions.
        delivery: Runs the model's work and sends the answers.
        limits: Limits of the server.
        default_tokens: Longest answer where a request does not say.
    """

    def __init__(
        self, sessions: VideoSessions, delivery: AnswerDelivery, limits: ServingLimits, default_tokens: int
    ) -> None:
        self._sessions = sessions
        self._delivery = delivery
        self._limits = limits
        self._default_tokens = default_tokens

    def routes(self) -> list[Route]:
        """The routes."""
        one = "/v1/sessions/{identity}"
        return [
            Route("/v1/sessions", self.start, methods=["POST"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/frames", self.push, methods=["POST"]),
            Route(f"{one}/ask", self.ask, methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        """Start a session."""
        session = await self._delivery.run(self._sessions.start())
        return json_reply(self._sessions.document(session))

    async def show(self, request: Request) -> Response:
        """Tell what a session has seen so far."""
        return json_reply(self._sessions.document(self._sessions.get(request.path_params["identity"])))

    async def delete(self, request: Request) -> Response:
        """End a session."""
        identity = request.path_params["identity"]
        self._sessions.delete(identity)
        return json_reply({"id": identity, "object": "session", "deleted": True})

    async def push(self, request: Request) -> Response:
        """Take the next frames of a session."""
        session = self._sessions.get(request.path_params["identity"])
        most = self._limits.pushed_frames
        async with read_form(request, self._limits, max_bytes=self._limits.json_bytes, max_files=most) as form:
            pictures = [each.file for each in form.getlist("frames") if isinstance(each, UploadFile)]
            await self._delivery.run(self._sessions.push(session, pictures, _times(form)))
        return json_reply(self._sessions.document(session))

    async def ask(self, request: Request) -> Response:
        """Answer a question about what a session has seen so far."""
        session = self._sessions.get(request.path_params["identity"])
        fields = Fields(await read_json(request, self._limits))
        question = fields.text("question")
        options = read_answer_options(fields, self._limits, self._default_tokens)
        fields.finish()
        return await self._delivery.reply(
            request, options, lambda on_text: self._sessions.ask(session, question, options, on_text)
        )


def _times(form: FormData) -> list[int]:
    """The times of the frames, in one field with commas or in several fields.

    Raises:
        ApiError: One is no whole number.
    """
    fields = [each for each in form.getlist("times_ms") if isinstance(each, str)]
    texts = [text.strip() for field in fields for text in field.split(",")]
    if not all(_TIME.fullmatch(text) for text in texts):
        raise ApiError(
            400,
            "times_ms must be whole numbers of milliseconds, one for each picture, such as 0,500,1000",
            code="bad_value",
            param="times_ms",
        )
    return [int(text) for text in texts]
