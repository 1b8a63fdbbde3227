"""Files are found below the root only, and uploads under their quota."""

import base64
import io
import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from membridge.serving.api_errors import ApiError
from membridge.serving.chat_request import MediaPart
from membridge.serving.media_sources import MediaSources
from membridge.serving.public_download import DownloadRules
from membridge.serving.stored_files import FileStore

RULES = DownloadRules(frozenset(), 100, 10)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return FileStore(folder, 20_000, 60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with some files, beside a file that is not for clients."""
    folder = tmp_path / "root"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/a b.mp4").write_bytes(b"inside")
    (tmp_path / "secret.mp4").write_bytes(b"outside")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too/b.mp4").write_bytes(b"outside")
    (folder / "link.mp4").symlink_to(folder / "inner/a b.mp4")
    (folder / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "outer").symlink_to(tmp_path)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return folder


def read(sources: MediaSources, url: str | None, file_id: str | None = None) -> bytes:
    with sources.open(MediaPart(url, file_id, None, None, "here")) as file:
        return file.path.read_bytes()


def refusal(sources: MediaSources, url: str | None, file_id: str | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(sources, url, file_id)
    assert caught.value.param == "here"
    return caught.value


def test_files_below_the_root_are_read(store: FileStore, root: Path) -> None:
    sources = MediaSources(store, RULES, root)
    path = root / "inner/a b.mp4"
    for url in ("inner/a b.mp4", "./inner/../inner/a b.mp4", str(path), path.as_uri(), "link.mp4"):
        assert read(sources, url) == b"inside"
    assert read(sources, f"file://localhost{quote(str(path))}") == b"inside"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4",
        "inner/../../secret.mp4",
        "{outside}/secret.mp4",
        "file://{outside}/secret.mp4",
        "file:///{outside}/root/%2e%2e/secret.mp4",
        "../root-too/b.mp4",
        "out.mp4",
        "outer/secret.mp4",
        "loop.mp4",
        "pipe.mp4",
        "inner",
        "",
        ".",
        "/dev/zero",
        "/proc/self/environ",
        "missing.mp4",
        "a\0b",
        "x" * 5000,
        "inner/a b.mp4/more",
        "\udce9.mp4",
    ],
)
def test_all_other_files_are_refused_with_one_message(store: FileStore, root: Path, name: str) -> None:
    error = refusal(MediaSources(store, RULES, root), name.format(outside=root.parent))
    assert (error.status, error.code) == (400, "file_not_found")
    assert "below the server's root" in error.message


def test_a_file_url_with_a_host_is_refused(store: FileStore, root: Path) -> None:
    assert refusal(MediaSources(store, RULES, root), "file://elsewhere/a.mp4").code == "path_refused"


def test_without_a_root_no_file_is_read(store: FileStore, root: Path) -> None:
    error = refusal(MediaSources(store, RULES, None), str(root / "inner/a b.mp4"))
    assert error.code == "path_refused"
    assert "--root" in error.message


def test_no_descriptor_stays_open(store: FileStore, root: Path) -> None:
    sources = MediaSources(store, RULES, root)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read(sources, "link.mp4")
        for url in ("pipe.mp4", "out.mp4", "inner", "data:x;base64,A"):
            refusal(sources, url)
    assert len(os.listdir("/proc/self/fd")) == before


def test_equal_content_has_equal_keys_and_changed_content_another(store: FileStore, root: Path) -> None:
    sources = MediaSources(store, RULES, root)
    path = root / "inner/a b.mp4"

    def key(url: str) -> str:
        with sources.open(MediaPart(url, None, None, None, "here")) as file:
            return file.key

    assert key("link.mp4") == key(str(path))
    inline = f"data:video/mp4;base64,{base64.b64encode(b'inside').decode()}"
    assert key(inline) == key(inline)
    before = key("link.mp4")
    path.write_bytes(b"other content")
    assert key("link.mp4") != before


@pytest.mark.parametrize(
    "url", ["data:video/mp4,abc", "data:;base64,a b", "data:;base64,ä", "data:;base64,abc", "data:"]
)
def test_a_data_url_without_base64_is_refused(store: FileStore, root: Path, url: str) -> None:
    assert refusal(MediaSources(store, RULES, root), url).code == "bad_value"


def test_an_upload_can_be_read_until_it_is_deleted_and_also_while(store: FileStore) -> None:
    sources = MediaSources(store, RULES, None)
    stored = store.add(io.BytesIO(b"content"), "x" * 999, "user_data")
    assert len(stored.name) == 255
    assert read(sources, None, stored.id) == read(sources, stored.id) == b"content"
    with sources.open(MediaPart(stored.id, None, None, None, "here")) as file:
        store.delete(stored.id)
        assert file.path.read_bytes() == b"content"
    assert refusal(sources, stored.id).status == 404
    assert refusal(sources, None, "file-../../secret").status == 404


def test_uploads_stay_under_their_quota(store: FileStore) -> None:
    with store.reserve(12_000):
        with pytest.raises(ApiError, match="no room") as caught, store.reserve(12_000):
            pass
        assert caught.value.status == 429
        assert "Retry-After" in caught.value.headers
        stored = store.add(io.BytesIO(bytes(8_000)), "a", "user_data")
    assert store.used_bytes == 8_000
    store.delete(stored.id)
    assert store.used_bytes == 0


def test_tiny_files_use_up_the_quota_too(store: FileStore) -> None:
    for _ in range(4):
        store.add(io.BytesIO(b""), "a", "user_data")
    with pytest.raises(ApiError, match="no room"), store.reserve(5_000):
        pass


def test_files_that_are_not_used_are_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path, 20_000, 0.5)
    old, used = (store.add(io.BytesIO(b"x"), "a", "user_data") for _ in range(2))
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        store.open(used.id)[1].close()
        time.sleep(0.01)
    store.remove_unused()
    assert store.files() == [used]
    assert [path.name for path in tmp_path.iterdir()] == [used.id]
    assert old.id != used.id
