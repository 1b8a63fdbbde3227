"""Routes: uploads, in the form of OpenAI's files."""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from membridge.serving.api_errors import ApiError
from membridge.serving.chat_replies import json_reply
from membridge.serving.request_bodies import read_form, stated_length
from membridge.serving.serving_limits import ServingLimits
from membridge.serving.stored_files import FileStore

_LONGEST_PURPOSE = 64


class FileRoutes:
    """Handlers of ``/v1/files``.

    Args:
        store: The uploads.
        limits: Limits of the server.
    """

    def __init__(self, store: FileStore, limits: ServingLimits) -> None:
        self._store = store
        self._limits = limits

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files, methods=["GET"]),
            Route("/v1/files/{identity}", self.one_file, methods=["GET"]),
            Route("/v1/files/{identity}", self.delete, methods=["DELETE"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Store a file. While it arrives, it takes room for itself twice."""
        most = self._limits.upload_bytes
        room = min(most, stated_length(request) or most)
        with self._store.reserve(room):
            async with read_form(request, self._limits, max_bytes=most, max_files=1) as form:
                file, purpose = form.get("file"), form.get("purpose")
                if not isinstance(file, UploadFile):
                    raise ApiError(400, "the form has no file in its field 'file'", code="bad_form", param="file")
                purpose = purpose if isinstance(purpose, str) else "user_data"
                name = file.filename or "upload"
                stored = await run_in_threadpool(self._store.add, file.file, name, purpose[:_LONGEST_PURPOSE])
        return json_reply(self._store.document(stored))

    async def files(self, request: Request) -> Response:
        """List the uploads."""
        found = [self._store.document(each) for each in self._store.files()]
        return json_reply({"object": "list", "data": found, "has_more": False})

    async def one_file(self, request: Request) -> Response:
        """Give what is known of an upload."""
        return json_reply(self._store.document(self._store.get(request.path_params["identity"])))

    async def delete(self, request: Request) -> Response:
        """Delete an upload."""
        identity = request.path_params["identity"]
        self._store.delete(identity)
        return json_reply({"id": identity, "object": "file", "deleted": True})
