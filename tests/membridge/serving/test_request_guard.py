"""Which requests the guard lets through, before anything of them is read."""

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from membridge.serving.request_guard import GuardRules, RequestGuard


def client_of(rules: GuardRules) -> TestClient:
    async def accept(request: Request) -> Response:
        return Response("accepted")

    app = Starlette(routes=[Route("/v1/files", accept, methods=["POST"])])
    return TestClient(RequestGuard(app, rules), base_url="http://localhost:8000")


@pytest.fixture
def local() -> Iterator[TestClient]:
    with client_of(GuardRules(None, True, connections=4, seconds=5)) as client:
        yield client


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example:8000", "http://evil.example:8000", "null"]
)
def test_forms_of_pages_of_other_sites_are_refused_on_this_machine(local: TestClient, origin: str) -> None:
    """A browser sends a form for any page; only the answer is kept from the page."""
    reply = local.post("/v1/files", files={"file": b"x"}, headers={"Origin": origin})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "origin_refused"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", None])
def test_pages_of_this_machine_and_programs_are_accepted(local: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert local.post("/v1/files", files={"file": b"x"}, headers=headers).text == "accepted"


def test_with_a_key_pages_of_any_site_are_accepted() -> None:
    headers = {"Origin": "https://site.example", "Authorization": "Bearer secret"}
    with client_of(GuardRules("secret", False, connections=4, seconds=5)) as client:
        assert client.post("/v1/files", headers=headers).text == "accepted"
