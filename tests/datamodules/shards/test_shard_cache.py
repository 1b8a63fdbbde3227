import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamodules.errors import ShardError
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_reader import ShardReader, open_shards
from tests.datamodules.file_server import FileServer
from tests.fixtures_data import make_samples, write_shard

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of one size, indexed."""
    (tmp_path / "remote").mkdir()
    for name in "abc":
        write_shard(tmp_path / f"remote/{name}.tar", make_samples(2))
    open_shards(str(tmp_path / "remote"))
    return tmp_path / "remote"


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as running:
        yield running


@pytest.fixture
def make(folder: Path, server: FileServer, tmp_path: Path) -> Callable[..., ShardReader]:
    """Makes a reader of all six samples through a cache with room for so many shards."""
    size = (folder / "a.tar").stat().st_size

    def build(room: float, names: str = "{a,b,c}") -> ShardReader:
        return open_shards(f"{server.url}/{names}.tar", ShardCache(str(tmp_path / "cache"), room * size / 1e9))

    return build


def kept(tmp_path: Path, kind: str = "shards") -> set[str]:
    return {path.name.partition("-")[2] for path in (tmp_path / "cache" / kind).iterdir()}


def read(shards: ShardReader, index: int) -> bytes:
    return shards.read(index).media[0].content.read()


def in_processes(action: Callable[[int], None], count: int) -> list[int | None]:
    """Exit codes of forked processes."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=action, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_the_longest_unused_shard_makes_room(make: Callable[..., ShardReader], tmp_path: Path) -> None:
    shards = make(2.5)
    for index in (0, 2, 1):  # of shard a, b and a again
        read(shards, index)
        time.sleep(0.01)
    assert kept(tmp_path) == {"a.tar", "b.tar"}
    read(shards, 4)
    assert kept(tmp_path) == {"a.tar", "c.tar"}
    assert kept(tmp_path, "fetching") == set()


def test_a_shard_is_fetched_once_while_it_is_kept(make: Callable[..., ShardReader], server: FileServer) -> None:
    shards = make(3.1)
    for index in [0, 3, 5, 1, 2, 4] * 2:
        read(shards, index)
    read(make(3.1), 0)
    assert [server.fetched[f"{name}.tar"] for name in "abc"] == [1, 1, 1]


def test_a_shard_removed_between_naming_and_opening_comes_back(
    make: Callable[..., ShardReader], server: FileServer, tmp_path: Path
) -> None:
    shards = make(1.1)
    content = shards.read(0).media[0].content
    expected = content.read()
    read(shards, 2)
    assert kept(tmp_path) == {"b.tar"}
    assert content.read() == expected
    with content.open() as file:
        read(shards, 2)  # takes its room
        assert file.read() == expected


def test_a_shard_larger_than_the_cache_is_an_error(make: Callable[..., ShardReader]) -> None:
    with pytest.raises(ShardError, match=r"a\.tar has .* GB, but the shard cache holds only .*; raise .*max_gigabytes"):
        read(make(0.9), 0)


def test_one_process_fetches_and_the_others_wait(make: Callable[..., ShardReader], server: FileServer) -> None:
    shards = make(3.1)
    server.delay_s = 0.5
    assert in_processes(lambda _: read(shards, 0) and None, 4) == [0] * 4
    assert server.fetched["a.tar"] == 1


def test_more_processes_than_shards_fit_all_come_to_read(
    make: Callable[..., ShardReader], folder: Path, tmp_path: Path
) -> None:
    shards = make(1.1)
    local = open_shards(str(folder))

    def work(number: int) -> None:
        for step in range(6):
            index = (2 * number + 3 * step) % 6
            assert read(shards, index) == read(local, index)
            used = sum(path.stat().st_size for path in (tmp_path / "cache/shards").iterdir())
            assert used <= (folder / "a.tar").stat().st_size

    assert in_processes(work, 3) == [0, 0, 0]


def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(
    make: Callable[..., ShardReader], folder: Path, server: FileServer, tmp_path: Path
) -> None:
    shards = make(1.1)
    server.delay_s = 30
    process = multiprocessing.get_context("fork").Process(target=read, args=(shards, 0))
    process.start()
    unfinished = tmp_path / "cache/fetching"
    while not (unfinished.is_dir() and any(path.stat().st_size for path in unfinished.iterdir())):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert kept(tmp_path) == set()
    server.delay_s = 0
    assert read(shards, 2) == read(open_shards(str(folder)), 2), "what the killed one had reserved is given back"
    assert read(shards, 0) == read(open_shards(str(folder)), 0)
    assert kept(tmp_path, "fetching") == set()


def test_a_changed_shard_is_fetched_again_and_an_old_reader_is_told(
    make: Callable[..., ShardReader], folder: Path, tmp_path: Path
) -> None:
    before = make(2.1)
    write_shard(folder / "a.tar", make_samples(2, start=5))
    status = (folder / "a.tar").stat()
    os.utime(folder / "a.tar", (status.st_atime, status.st_mtime + 5))
    open_shards(str(folder / "a.tar"))  # the index beside it too
    with pytest.raises(ShardError, match=r"a\.tar changed since it was indexed; start again to read the new one"):
        read(before, 0)
    assert make(2.1, "a").entry(0).key == "sample005"
    read(make(2.1, "a"), 0)
    assert kept(tmp_path) == {"a.tar"}


def test_a_folder_that_cannot_be_written_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"shard cache .*file/cache cannot be written .*MEMBRIDGE_CACHE"):
        read(open_shards(f"{server.url}/a.tar", ShardCache(str(tmp_path / "file/cache"))), 0)


def test_the_folder_comes_from_the_environment(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBRIDGE_CACHE", str(tmp_path / "all"))
    read(open_shards(f"{server.url}/a.tar"), 0)
    assert len(list((tmp_path / "all/shards/shards").iterdir())) == 1


@pytest.mark.parametrize("gigabytes", [0, -1, float("nan")])
def test_a_cache_without_room_is_refused(gigabytes: float) -> None:
    with pytest.raises(ValueError, match="max_gigabytes must be positive"):
        ShardCache(max_gigabytes=gigabytes)
