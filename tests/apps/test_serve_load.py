"""Many clients at once, some of them hostile: no crash, right answers or clear refusals, and no memory that grows."""

import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from membridge.media_files import read_media_file
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import QUESTION, ServerProcess, expected_answer, make_served_model, write_media
from tests.raw_http import connected, head

NUM_CLIENTS = 8
NUM_REQUESTS = 200
MODEL = "tiny-model"
CHAT = "/v1/chat/completions"
MOST_GROWTH = 0.03
"""Growth of the resident memory from the end of one round to the end of the next."""


class Outcome(NamedTuple):
    """What became of a request."""

    kind: str
    is_right: bool
    told: str


class Client:
    """Sends requests of every kind, and knows what each should give.

    Args:
        url: The server's address.
        root: Its folder of media.
        answers: Name of a file -> the answer about it.
    """

    def __init__(self, url: str, root: Path, answers: dict[str, str]) -> None:
        self._root = root
        self._answers = answers
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=120)
        self.kinds: list[Callable[[int], Outcome]] = [
            self._local,
            self._too_large,
            self._upload,
            self._outside,
            self._streamed,
            self._broken,
            self._inline,
            self._wrong_type,
            self._session,
            self._private,
            self._text,
            self._gone,
            self._wrong_field,
            self._garbage,
            self._slow_body,
        ]

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, **content: Any) -> httpx.Response:
        """Send a request, again where the server has no room for it at the moment, as the openai package does."""
        for _ in range(100):
            reply = self._http.post(path, **content)
            if reply.status_code != 503:
                break
            time.sleep(0.1)
        return reply

    def _ask(self, url: str | None, **fields: Any) -> httpx.Response:
        shown = [] if url is None else [{"type": "video_url", "video_url": {"url": url}}]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": QUESTION}]}]
        return self._post(CHAT, json={"model": MODEL, "messages": messages, **fields})

    def _answered(self, kind: str, reply: httpx.Response, name: str) -> Outcome:
        is_right = reply.status_code == 200
        is_right = is_right and reply.json()["choices"][0]["message"]["content"] == self._answers[name]
        return Outcome(kind, is_right, reply.text)

    def _refused(self, kind: str, reply: httpx.Response, *codes: str) -> Outcome:
        error = reply.json().get("error", {})
        is_clear = 400 <= reply.status_code < 500 and error.get("code") in codes and len(error["message"]) > 20
        return Outcome(kind, is_clear, reply.text)

    def _local(self, number: int) -> Outcome:
        name = f"clip{number % 2}.mp4"
        return self._answered("local", self._ask(name), name)

    def _upload(self, number: int) -> Outcome:
        name = f"clip{number % 2}.mp4"
        upload = self._post("/v1/files", files={"file": (name, (self._root / name).read_bytes())}).json()
        reply = self._ask(upload["id"])
        is_deleted = self._http.delete(f"/v1/files/{upload['id']}").status_code == 200
        outcome = self._answered("upload", reply, name)
        return outcome._replace(is_right=outcome.is_right and is_deleted)

    def _streamed(self, number: int) -> Outcome:
        name = f"clip{number % 2}.mp4"
        lines = self._ask(name, stream=True).text.split("\n\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        return Outcome("streamed", text.strip() == self._answers[name] and lines[-2] == "data: [DONE]", str(events))

    def _inline(self, number: int) -> Outcome:
        data = base64.b64encode((self._root / "picture.png").read_bytes()).decode()
        return self._answered("inline", self._ask(f"data:image/png;base64,{data}"), "picture.png")

    def _text(self, number: int) -> Outcome:
        return self._answered("text", self._ask(None), "")

    def _session(self, number: int) -> Outcome:
        started = self._post("/v1/sessions").json()
        path = f"/v1/sessions/{started['id']}"
        picture = (self._root / "picture.png").read_bytes()
        files = [("frames", (f"{each}.png", picture)) for each in range(3)]
        pushed = self._post(f"{path}/frames", files=files, data={"times_ms": "0,500,1000"})
        reply = self._post(f"{path}/ask", json={"question": QUESTION})
        is_right = pushed.status_code == reply.status_code == self._http.delete(path).status_code == 200
        outcome = self._answered("session", reply, "session")
        return outcome._replace(is_right=outcome.is_right and is_right)

    def _too_large(self, number: int) -> Outcome:
        if number % 2:
            reply = self._post("/v1/files", files={"file": ("a.mp4", bytes(4 << 20))})
        else:
            reply = self._post(CHAT, content=b" " * (17 << 20), headers={"Content-Type": "application/json"})
        return self._refused("too large", reply, "body_too_large")

    def _wrong_type(self, number: int) -> Outcome:
        if number % 2:
            reply = self._ask("text.mp4")
            return self._refused("wrong type", reply, "media_unreadable")
        reply = self._post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
        return self._refused("wrong type", reply, "unsupported_type")

    def _outside(self, number: int) -> Outcome:
        url = ["../secret.mp4", "/etc/passwd", "file:///proc/self/environ", "out.mp4"][number % 4]
        return self._refused("outside", self._ask(url), "file_not_found")

    def _private(self, number: int) -> Outcome:
        url = ["http://127.0.0.1:1/", "http://169.254.169.254/", "http://[::1]/", "http://localhost/"][number % 4]
        return self._refused("private", self._ask(url), "url_refused")

    def _broken(self, number: int) -> Outcome:
        url = ["broken.mp4", "empty.mp4", "damaged.mp4"][number % 3]
        return self._refused("broken", self._ask(url), "media_unreadable", "media_crash")

    def _wrong_field(self, number: int) -> Outcome:
        field = [{"n": 2}, {"max_tokens": -1}, {"tools": [{}]}, {"stop": 3}][number % 4]
        return self._refused("wrong field", self._ask(None, **field), "bad_value")

    def _gone(self, number: int) -> Outcome:
        body = json.dumps(
            {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        ).encode()
        with connected(self._url, 60.0) as connection:
            connection.sendall(head(CHAT, len(body)) + body[: len(body) - number % 2])
        return Outcome("gone", True, "")

    def _garbage(self, number: int) -> Outcome:
        with connected(self._url, 60.0) as connection:
            connection.sendall(b"\x16\x03\x01 no request at all\r\n\r\n")
            reply = connection.recv(1000)
        return Outcome("garbage", reply.startswith(b"HTTP/1.1 400"), str(reply))

    def _slow_body(self, number: int) -> Outcome:
        with connected(self._url, 60.0) as connection:
            connection.sendall(head(CHAT, 1000) + b"{")
            reply = connection.recv(1000)
        return Outcome("slow body", reply.startswith(b"HTTP/1.1 408"), str(reply))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, from the kernel."""
    return 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def decoders_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def expected_of_session(model: VideoLanguageModel, picture: Path) -> str:
    """The answer after three equal frames."""
    session = StreamingSession(model)
    frame = read_media_file(picture, model.training_facts.frames).frames
    session.push(frame.repeat(3, 1, 1, 1), [0, 500, 1000])
    return session.ask(QUESTION, model.training_facts.max_new_tokens)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_clients_with_hostile_ones_among_them(folders: PartFolders, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_media(root)
    (root / "damaged.mp4").write_bytes(b"".join([(root / "clip0.mp4").read_bytes()[:200], bytes(3000)]))
    (tmp_path / "secret.mp4").write_bytes((root / "clip0.mp4").read_bytes())
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "uploads").mkdir()
    model = make_served_model(folders)
    answers = {name: expected_answer(model, [root / name]) for name in ("clip0.mp4", "clip1.mp4", "picture.png")}
    answers |= {"": expected_answer(model, []), "session": expected_of_session(model, root / "picture.png")}
    model.save_pretrained(tmp_path / MODEL)
    options = ["--root", str(root), "--upload-folder", str(tmp_path / "uploads"), "--cache-mb", "1"]
    options += ["--body-seconds", "2", "--max-upload-mb", "2", "--log-level", "warning"]
    with ServerProcess([str(tmp_path / MODEL), *options]) as server:
        clients = [Client(server.url, root, answers) for _ in range(NUM_CLIENTS)]

        def requests_of(client: int) -> list[Outcome]:
            kinds = clients[client].kinds
            numbers = range(client, NUM_REQUESTS, NUM_CLIENTS)  # every client starts with another kind
            return [kinds[number % len(kinds)](number // len(kinds)) for number in numbers]

        def play() -> tuple[int, int]:
            with ThreadPoolExecutor(NUM_CLIENTS) as pool:
                outcomes = [each for found in pool.map(requests_of, range(NUM_CLIENTS)) for each in found]
            assert len(outcomes) == NUM_REQUESTS
            assert [outcome for outcome in outcomes if not outcome.is_right] == []
            assert len(Counter(outcome.kind for outcome in outcomes)) == len(clients[0].kinds)
            assert server.process.poll() is None
            children = decoders_of(server.process.pid)
            return resident_bytes(server.process.pid), sum(resident_bytes(child) for child in children)

        rounds = [play() for _ in range(3)]
        print("resident MB of server and decoder:", [tuple(round(each / 1e6, 1) for each in one) for one in rounds])
        state = httpx.get(f"{server.url}/health").json()
        assert (state["sessions"], state["stored_bytes"]) == (0, 0)
        for client in clients:
            client.close()
    assert "Traceback" not in server.printed
    assert rounds[-1][0] < (1 + MOST_GROWTH) * rounds[-2][0]
    assert rounds[-1][1] < (1 + MOST_GROWTH) * rounds[-2][1]
