from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.conversations import load_tokenizer
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.transforms import Augmentation, PixelOptions
from tests.datamodules.recorder import mixed_samples, samples
from tests.fixtures_data import make_tiny_tokenizer, write_shard


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Any:
    return load_tokenizer(str(tokenizer_folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train-0.tar", samples("a", 8))
    write_shard(folder / "train-1.tar", samples("b", 7, num_frames=3))
    write_shard(folder / "long.tar", samples("l", 5, num_frames=2))
    write_shard(folder / "short.tar", samples("s", 3))
    write_shard(folder / "mixed-0.tar", mixed_samples("m", 40))
    write_shard(folder / "mixed-1.tar", mixed_samples("n", 17))
    return folder


@pytest.fixture
def make(shards: Path, tokenizer_folder: Path) -> Callable[..., InstructionDataModule]:
    def build(**changes: Any) -> InstructionDataModule:
        settings: dict[str, Any] = {
            "train": [Source(str(shards / "train-*.tar"))],
            "sampling": FrameSampling(num_frames=2),
            "pixels": PixelOptions(16, augmentation=Augmentation(horizontal_flip=0.5, color_jitter=0.5)),
            "loading": Loading(batch_size=4, num_workers=0),
        }
        return InstructionDataModule(str(tokenizer_folder), **(settings | changes))

    return build
