"""Routes: the model, and chat completions."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from membridge.serving.answer_delivery import AnswerDelivery
from membridge.serving.answering import ChatModel
from membridge.serving.api_errors import ApiError
from membridge.serving.chat_replies import json_reply
from membridge.serving.chat_request import read_chat_request
from membridge.serving.request_bodies import read_json
from membridge.serving.serving_limits import ServingLimits


class ChatRoutes:
    """Handlers of ``/v1/models`` and ``/v1/chat/completions``.

    Args:
        name: Name of the model.
        chat: The model and its threads.
        delivery: Sends the answers.
        limits: Limits of the server.
    """

    def __init__(self, name: str, chat: ChatModel, delivery: AnswerDelivery, limits: ServingLimits) -> None:
        self._name = name
        self._chat = chat
        self._delivery = delivery
        self._limits = limits
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.one_model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return json_reply({"object": "list", "data": [self._document()]})

    async def one_model(self, request: Request) -> Response:
        """Give the model by its name."""
        self._check_name(request.path_params["name"])
        return json_reply(self._document())

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        body = await read_json(request, self._limits)
        asked = read_chat_request(body, self._limits, self._chat.model.training_facts.max_new_tokens)
        self._check_name(asked.model)
        return await self._delivery.reply(request, asked.options, lambda on_text: self._chat.answer(asked, on_text))

    def _document(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._started, "owned_by": "membridge"}

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise ApiError(
                404,
                f"there is no model {name[:100]!r}; this server has {self._name!r}",
                code="model_not_found",
                param="model",
            )
