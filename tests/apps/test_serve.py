"""The server as a command, in a process of its own."""

import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from apps.serve import listen, main, read_api_key
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import QUESTION, ServerProcess, expected_answer, make_served_model, write_media

KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def exported(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny-model"
    make_served_model(folders).save_pretrained(folder)
    return folder


@pytest.fixture
def server(exported: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    write_media(tmp_path / "root")
    (tmp_path / "uploads").mkdir()
    (tmp_path / "key").write_text(f"{KEY}\n")
    options = ["--root", str(tmp_path / "root"), "--upload-folder", str(tmp_path / "uploads")]
    with ServerProcess([str(exported), *options, "--api-key-file", str(tmp_path / "key")]) as started:
        yield started


@pytest.mark.slow
def test_the_command_answers_and_ends_cleanly_when_it_is_told_to(
    server: ServerProcess, exported: Path, tmp_path: Path, folders: PartFolders
) -> None:
    path = tmp_path / "root/clip0.mp4"
    content = [{"type": "video_url", "video_url": {"url": "clip0.mp4"}}, {"type": "text", "text": QUESTION}]
    messages: list[dict[str, object]] = [{"role": "user", "content": content}]
    answers: list[str | None] = []
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        client.files.create(file=path.open("rb"), purpose="user_data")
        assert len(list((tmp_path / "uploads").rglob("file-*"))) == 1

        def ask() -> None:
            reply = client.chat.completions.create(model="tiny-model", messages=messages)  # type: ignore[arg-type]
            answers.append(reply.choices[0].message.content)

        ask()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while httpx.get(f"{server.url}/health").json()["answering"] == 0 and len(answers) < 5:
            assert time.monotonic() < end
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
    assert server.process.wait(60) == 0, server.output()
    assert answers == [expected_answer(make_served_model(folders), [path])] * 5
    assert list((tmp_path / "uploads").iterdir()) == []
    assert "Traceback" not in server.output()


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMBRIDGE_API_KEY", raising=False)
    assert read_api_key(None) is None
    monkeypatch.setenv("MEMBRIDGE_API_KEY", KEY)
    assert read_api_key(None) == KEY
    (tmp_path / "key").write_text(" from-the-file-of-keys\n")
    assert read_api_key(tmp_path / "key") == "from-the-file-of-keys"
    for wrong in ("short", "with spaces in its middle", "ümlaut-and-more-letters"):
        (tmp_path / "key").write_text(wrong)
        with pytest.raises(ValueError, match="at least 16"):
            read_api_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no/such/model.ckpt"], "there is no model no/such/model.ckpt"),
        (["MODEL", "--root", "missing"], "--root missing is no folder"),
        (["MODEL", "--max-tokens", "0"], "new_tokens is 0"),
        (["MODEL", "--api-key-file", "missing"], "No such file"),
    ],
)
def test_wrong_options_are_refused(exported: Path, options: list[str], message: str) -> None:
    given = [str(exported) if option == "MODEL" else option for option in options]
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        main(given)


def test_a_package_that_is_not_installed_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=re.escape("needs uvicorn: pip install 'membridge[serve]'")):
        main([str(exported)])


def test_an_address_that_cannot_be_used_is_refused() -> None:
    with listen("127.0.0.1", 0) as first:
        for host, port in (("127.0.0.1", first.getsockname()[1]), ("192.0.2.1", 0), ("127.0.0.1", 70_000)):
            with pytest.raises(ValueError, match=f"port {port} of {host} cannot be used"):
                listen(host, port)
