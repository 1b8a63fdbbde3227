"""Runs before any test module: torchvision must not be imported by another first. And what most tests build on."""

import signal
from collections.abc import Iterator

import pytest

import torchvision_import  # noqa: F401
from tests.fixtures_models import PartFolders, make_part_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PartFolders:
    return make_part_folders(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Let signals act as they do in a terminal.

    A process that ``nohup``, ``setsid`` or a script starts in the background ignores SIGINT or SIGHUP, and so do all
    processes that it starts.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
