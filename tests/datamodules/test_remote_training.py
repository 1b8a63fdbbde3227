"""Training from an S3-compatible server and over http gives what training from a folder gives."""

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from moto.server import ThreadedMotoServer

from datamodules.errors import ShardError
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import open_shards
from tests.datamodules.file_server import FileServer
from tests.datamodules.recorder import Recorder, trainer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def s3(shards: Path) -> Iterator[str]:
    """The shards in a bucket; two of them with their indexes beside them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "made",
            "AWS_SECRET_ACCESS_KEY": "up",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        load_index(shards / "train-0.tar")
        load_index(shards / "short.tar")
        for path in [*shards.glob("*.tar"), shards / "train-0.tar.index.json", shards / "short.tar.index.json"]:
            client.upload_file(str(path), "bucket", f"data/{path.name}")
        yield "s3://bucket/data"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def http(shards: Path) -> Iterator[str]:
    with FileServer(shards) as server:
        yield server.url


@pytest.fixture
def small_cache(shards: Path, tmp_path: Path) -> ShardCache:
    """Room for one of the shards that are trained on, and not for two."""
    largest = max(path.stat().st_size for path in shards.glob("train-?.tar"))
    return ShardCache(str(tmp_path / "cache"), 1.1 * largest / 1e9)


def fit(data: InstructionDataModule, folder: Path) -> Recorder:
    model = Recorder()
    trainer(folder, max_steps=4).fit(model, datamodule=data)
    return model


@pytest.mark.parametrize(("store", "num_workers"), [("s3", 2), ("http", 0)])
def test_training_through_a_small_cache_equals_training_from_a_folder(
    make: Callable[..., InstructionDataModule],
    shards: Path,
    small_cache: ShardCache,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    store: str,
    num_workers: int,
) -> None:
    url = request.getfixturevalue(store)
    loading = Loading(batch_size=4, num_workers=num_workers, cache=small_cache)
    remote = make(train=[Source(f"{url}/train-{{0..1}}.tar")], validation={"s": f"{url}/short.tar"}, loading=loading)
    local = make(validation={"s": f"{shards}/short.tar"})
    models = fit(remote, tmp_path), fit(local, tmp_path)
    assert models[0].steps == models[1].steps
    assert models[0].losses == models[1].losses
    assert remote.state_dict() == local.state_dict(), "so each resumes the other"
    assert models[0].evaluated == models[1].evaluated
    assert len(list(Path(str(small_cache.folder), "shards").iterdir())) == 1


def test_batches_from_s3_are_those_of_the_folder(
    make: Callable[..., InstructionDataModule], s3: str, small_cache: ShardCache
) -> None:
    remote = make(train=[Source(f"{s3}/train-*.tar")], loading=Loading(batch_size=4, num_workers=0, cache=small_cache))
    count = 0
    for ours, theirs in zip(remote.train_dataloader(), make().train_dataloader(), strict=True):
        assert ours.questions == theirs.questions
        assert all(torch.equal(a, b) for a, b in zip(ours[:7], theirs[:7], strict=True))
        count += 1
    assert count == 3


def test_a_bucket_is_searched_like_a_folder(s3: str, shards: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in shards.glob("*.tar"))
    assert find_shards(f"{s3}/") == [f"{s3}/{name}" for name in names]
    assert find_shards(f"{s3}/train-[01].tar") == [f"{s3}/train-0.tar", f"{s3}/train-1.tar"]
    cache = ShardCache(str(tmp_path / "cache"))
    remote, local = open_shards(f"{s3}/", cache), open_shards(str(shards))
    assert [shard.fingerprint for shard in remote.shards] == [shard.fingerprint for shard in local.shards]
    fetched = {path.name.partition("-")[2] for path in Path(str(cache.folder), "shards").iterdir()}
    assert fetched == {*names} - {"train-0.tar", "short.tar"}, "these have their index beside them"


def test_a_changed_object_is_fetched_again(s3: str, shards: Path, tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path / "cache"))
    client = boto3.client("s3")
    client.upload_file(str(shards / "long.tar"), "bucket", "data/moving.tar")
    before = open_shards(f"{s3}/moving.tar", cache)
    client.upload_file(str(shards / "short.tar"), "bucket", "data/moving.tar")
    assert before.read(0).key == "l00", "the local copy is still there"
    assert open_shards(f"{s3}/moving.tar", cache).read(0).key == "s00"
    client.delete_object(Bucket="bucket", Key="data/moving.tar")
    with pytest.raises(ShardError, match=r"s3://bucket/data/moving\.tar does not exist or may not be read"):
        open_shards(f"{s3}/moving.tar", cache)


def test_the_cache_is_set_on_the_command_line(shards: Path, tokenizer_folder: Path) -> None:
    arguments = [
        f"--data.tokenizer={tokenizer_folder}",
        "--data.loading.cache.folder=/scratch/shards",
        "--data.loading.cache.max_gigabytes=3",
    ]
    cli = LightningCLI(Recorder, InstructionDataModule, args=arguments, run=False)
    assert cli.datamodule.loading.cache == ShardCache("/scratch/shards", 3.0)
