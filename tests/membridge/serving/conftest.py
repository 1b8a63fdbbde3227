from collections.abc import Iterator

import httpx
import pytest

from membridge.serving import web_application
from membridge.serving.header_timeout import HeaderTimeoutProtocol
from membridge.serving.serving_limits import ServingOptions
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import NAME, make_served_model, running_server, write_media
from tests.membridge.serving.limited_server import LIMITS, Served, SlowAnswers


@pytest.fixture(scope="module")
def quick_waits() -> Iterator[None]:
    """Let the server look often at what is not used, and wait shortly for headers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_application, "CLEANING_SECONDS", 0.2)
        patch.setattr(HeaderTimeoutProtocol, "header_seconds", 1.0)
        yield


@pytest.fixture(scope="module")
def served(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory, quick_waits: None) -> Iterator[Served]:
    root, uploads = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("uploads")
    write_media(root)
    model = make_served_model(folders)
    options = ServingOptions(NAME, uploads, root, only_loopback_names=True, limits=LIMITS)
    with (
        running_server(model, options) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield Served(url, client, model, root)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowAnswers]:
    answers = SlowAnswers(monkeypatch)
    yield answers
    answers.end.set()
