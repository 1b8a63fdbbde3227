import pytest

from tests.fixtures_exported import Trained, train_and_export


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished run of the quickstart's config on tiny parts, and its export; not to be changed."""
    return train_and_export(tmp_path_factory.mktemp("quickstart"))
