from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from datamodules.errors import ShardError
from datamodules.shards import storage
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import open_shards
from tests.datamodules.file_server import FileServer
from tests.fixtures_data import make_samples, write_shard

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    for number in range(3):
        write_shard(tmp_path / f"shards/train-{number:06d}.tar", make_samples(2, start=2 * number))
    return tmp_path / "shards"


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_DELAYS_S", (0.0, 0.0))


def test_remote_shards_read_as_local_ones_do(folder: Path, server: FileServer, cache: ShardCache) -> None:
    local = open_shards(str(folder))
    for pattern in (f"{server.url}/", f"{server.url}/train-*.tar", f"{server.url}/train-{{000000..000002}}.tar"):
        remote = open_shards(pattern, cache)
        assert [shard.fingerprint for shard in remote.shards] == [shard.fingerprint for shard in local.shards]
        for index in range(len(local)):
            ours, theirs = remote.read(index), local.read(index)
            assert (ours.key, ours.record) == (theirs.key, theirs.record)
            assert ours.media[0].content.read() == theirs.media[0].content.read()


def test_an_index_beside_a_remote_shard_spares_fetching_it(folder: Path, server: FileServer, cache: ShardCache) -> None:
    expected = list(load_index(folder / "train-000000.tar").entries)
    url = f"{server.url}/train-000000.tar"
    for _ in range(2):
        assert list(load_index(url, cache).entries) == expected
    assert server.fetched == {"train-000000.tar.index.json": 1}, "and it is kept"


@pytest.mark.parametrize("beside", [b"", b"<html>not found</html>", b'{"stamp": {"format": 1}, "samples": [\n]}'])
def test_an_index_of_something_else_is_made_again(
    folder: Path, server: FileServer, cache: ShardCache, beside: bytes
) -> None:
    (folder / "train-000000.tar.index.json").write_bytes(beside)
    assert len(load_index(f"{server.url}/train-000000.tar", cache).entries) == 2
    assert server.fetched["train-000000.tar"] == 1


def test_passing_failures_are_tried_again(folder: Path, server: FileServer, cache: ShardCache) -> None:
    server.failures = 2
    assert len(load_index(f"{server.url}/train-000000.tar", cache).entries) == 2
    server.cuts = 2
    assert len(load_index(f"{server.url}/train-000001.tar", cache).entries) == 2
    assert server.fetched["train-000001.tar"] == 3


def test_lasting_failures_name_the_url_and_the_reason(folder: Path, server: FileServer, cache: ShardCache) -> None:
    url = f"{server.url}/train-000000.tar"
    server.failures = 99
    with pytest.raises(ShardError, match=rf"{url}\S* cannot be downloaded \(.*503.*check network"):
        load_index(url, cache)
    server.failures, server.cuts = 0, 99
    with pytest.raises(ShardError, match=rf"{url} cannot be downloaded .*check network"):
        load_index(url, cache)
    assert list(Path(str(cache.folder), "shards").iterdir()) == []
    assert list(Path(str(cache.folder), "fetching").iterdir()) == []


def test_a_server_that_is_not_there_is_told_from_a_file_that_is_not_there(
    server: FileServer, cache: ShardCache
) -> None:
    with pytest.raises(storage.MissingFileError, match=r"gone\.tar does not exist or may not be read \(.*404"):
        load_index(f"{server.url}/gone.tar", cache)
    with pytest.raises(
        ShardError, match=r"127\.0\.0\.1:9/a\.tar cannot be downloaded \(ClientConnector.*check network"
    ):
        load_index("http://127.0.0.1:9/a.tar", cache)


def test_missing_packages_and_unknown_stores_are_named(cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(ShardError, match=r"foo://a\.tar cannot be read: Protocol not known: foo; is the url spelled"):
        load_index("foo://a.tar", cache)
    monkeypatch.setattr(fsspec, "url_to_fs", refuse)
    with pytest.raises(ShardError, match=r"s3://b/a\.tar cannot be read: Install s3fs.*; pip install s3fs"):
        load_index("s3://b/a.tar", cache)


def test_braces_name_shards_here_and_there(folder: Path) -> None:
    expected = [str(folder / f"train-00000{number}.tar") for number in (0, 2)]
    assert find_shards(f"{folder}/train-{{000000,000002}}.tar") == expected
    assert find_shards("https://host/{a,b}-{08..10}.tar") == [
        f"https://host/{name}-{number}.tar" for name in "ab" for number in ("08", "09", "10")
    ]
    with pytest.raises(ShardError, match=r"no shard matches .*train-000003\.tar"):
        find_shards(f"{folder}/train-{{000000..000003}}.tar")
    with pytest.raises(ShardError, match="has a brace without its counterpart"):
        find_shards("https://host/train-{0..3.tar")
    (folder / "train-000000.tar").rename(folder / "odd{name.tar")
    assert find_shards(str(folder / "odd{name.tar")) == [str(folder / "odd{name.tar")]


def test_a_pattern_that_lists_nothing_is_an_error(server: FileServer) -> None:
    with pytest.raises(ShardError, match=r"no shard matches '.*/gone-\*\.tar'.*name them with braces"):
        find_shards(f"{server.url}/gone-*.tar")


def test_stores_in_memory_do_as_well(folder: Path, cache: ShardCache) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(folder / "train-000000.tar"), "/box/train-000000.tar")
    remote = open_shards("memory://box/", cache)
    assert remote.shards[0].fingerprint == load_index(folder / "train-000000.tar").fingerprint
    assert remote.read(1).media
    with pytest.raises(ShardError, match="memory://box is a folder; name a shard, or end the url with '/'"):
        load_index("memory://box", cache)
