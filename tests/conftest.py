"""Runs before any test module: torchvision must not be imported by another first. And what most tests build on."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

import torchvision_import  # noqa: F401
from tests.fixtures_exported import Trained, train_and_export
from tests.fixtures_models import PartFolders, make_part_folders


class ByGroupOrFile(LoadGroupScheduling):
    """Gives a worker all tests of one ``xdist_group``, or all other tests of one file, which share fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroupOrFile:
    return ByGroupOrFile(config, log)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PartFolders:
    return make_part_folders(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of the quickstart's config on tiny parts, and its export; not to be changed."""
    return train_and_export(tmp_path_factory.mktemp("quickstart"))


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
