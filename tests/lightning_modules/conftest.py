import pytest

from tests.fixtures_models import PartFolders, make_part_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PartFolders:
    return make_part_folders(tmp_path_factory.mktemp("parts"))
