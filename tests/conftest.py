"""Runs before any test module: torchvision must not be imported by another first. And what most tests build on."""

import pytest

import torchvision_import  # noqa: F401
from tests.fixtures_models import PartFolders, make_part_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PartFolders:
    return make_part_folders(tmp_path_factory.mktemp("parts"))
