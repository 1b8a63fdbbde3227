from pathlib import Path
from typing import Any

import pytest

from datamodules.conversations import load_tokenizer
from tests.fixtures_data import make_tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Any:
    return load_tokenizer(str(tokenizer_folder))
