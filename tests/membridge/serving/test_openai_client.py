"""The openai package as a client: what it gets is what a conversation in this process answers."""

import base64
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from components.interfaces import DecodingSettings
from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from membridge.conversation import Conversation
from membridge.media_files import read_media_file
from membridge.serving import public_download
from membridge.serving.serving_limits import ServingLimits, ServingOptions
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import (
    LENGTH,
    NAME,
    QUESTION,
    expected_answer,
    make_served_model,
    running_server,
    write_media,
)

KEY = "a-key-of-this-test"


class Served(NamedTuple):
    """A running server."""

    url: str
    client: openai.OpenAI
    model: VideoLanguageModel
    root: Path
    folder: Path  # of uploads
    web: str  # address of a web server with the files of the root


@pytest.fixture(scope="module")
def served(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("uploads")
    write_media(root)
    model = make_served_model(folders)
    limits = ServingLimits(upload_bytes=1 << 20, json_bytes=1 << 20)
    handler = partial(SimpleHTTPRequestHandler, directory=root)
    files = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{files.server_address[1]}"
    options = ServingOptions(NAME, folder, root, (host,), KEY, limits=limits)
    with (
        files,
        running_server(model, options) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield Served(url, client, model, root, folder, f"http://{host}")
        files.shutdown()


def show(url: str, kind: str = "video_url", **more: int) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url, **more}}


def ask(served: Served, *parts: dict[str, Any], question: str = QUESTION, **options: Any) -> Any:
    content = [*parts, {"type": "text", "text": question}]
    messages: Any = [{"role": "user", "content": content}]
    return served.client.chat.completions.create(model=NAME, messages=messages, **options)


def test_an_answer_about_a_local_file_is_that_of_a_conversation(served: Served) -> None:
    reply = ask(served, show("clip0.mp4"))
    assert reply.choices[0].message.content == expected_answer(served.model, [served.root / "clip0.mp4"])
    conversation = Conversation(served.model)
    conversation.load(served.root / "clip0.mp4")
    measured = conversation.ask(QUESTION)
    assert reply.usage.prompt_tokens == measured.prompt_tokens
    assert reply.usage.completion_tokens == measured.new_tokens
    assert reply.usage.total_tokens == measured.prompt_tokens + measured.new_tokens
    assert reply.choices[0].finish_reason == ("length" if measured.new_tokens == LENGTH else "stop")
    assert reply.model == NAME


def test_a_streamed_answer_joins_to_the_whole_one(served: Served) -> None:
    whole = ask(served, show("clip1.mp4"))
    pieces = list(ask(served, show("clip1.mp4"), stream=True, stream_options={"include_usage": True}))
    text = "".join(each.choices[0].delta.content or "" for each in pieces if each.choices)
    assert text.strip() == whole.choices[0].message.content
    assert sum(bool(each.choices and each.choices[0].delta.content) for each in pieces) > 1
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_every_way_to_name_a_file_gives_the_same_answer(served: Served) -> None:
    path = served.root / "clip0.mp4"
    with path.open("rb") as file:
        upload = served.client.files.create(file=file, purpose="user_data")
    assert (upload.bytes, upload.filename) == (path.stat().st_size, "clip0.mp4")
    inline = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    ways = [show("clip0.mp4"), show(path.as_uri()), show(upload.id), show(inline)]
    ways.append({"type": "file", "file": {"file_id": upload.id}})
    answers = {ask(served, way).choices[0].message.content for way in ways}
    assert answers == {expected_answer(served.model, [path])}
    assert [each.id for each in served.client.files.list()] == [upload.id]
    assert served.client.files.retrieve(upload.id).status == "processed"
    assert served.client.files.delete(upload.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        ask(served, show(upload.id))
    assert list(served.folder.iterdir()) == []


def test_a_file_of_an_allowed_host_is_downloaded_and_removed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(openai.BadRequestError, match="only public addresses"):
        ask(served, show(f"{served.web}/clip1.mp4"))
    monkeypatch.setattr(public_download, "is_public", lambda address: True)
    reply = ask(served, show(f"{served.web}/clip1.mp4"))
    assert reply.choices[0].message.content == expected_answer(served.model, [served.root / "clip1.mp4"])
    with pytest.raises(openai.BadRequestError, match="status 404"):
        ask(served, show(f"{served.web}/missing.mp4"))
    assert list(served.folder.iterdir()) == []
    assert httpx.get(f"{served.url}/health").json()["stored_bytes"] == 0


def test_several_media_and_turns_are_those_of_a_conversation(served: Served) -> None:
    conversation = Conversation(served.model, DecodingSettings(LENGTH), system="be short")
    conversation.load(served.root / "clip0.mp4")
    conversation.load(served.root / "picture.png")
    first = conversation.ask(QUESTION)
    messages: list[Any] = [
        {"role": "system", "content": "be short"},
        {
            "role": "user",
            "content": [
                show("clip0.mp4"),
                show("picture.png", "image_url", detail="low"),  # type: ignore[arg-type]
                {"type": "text", "text": QUESTION},
            ],
        },
    ]
    create = served.client.chat.completions.create
    reply = create(model=NAME, messages=messages)
    assert reply.choices[0].message.content == first.text
    later = Conversation(served.model, DecodingSettings(LENGTH))
    later.load(served.root / "clip0.mp4")
    later.load(served.root / "picture.png")
    later.load(served.root / "clip1.mp4")
    turns = [("system", "be short"), ("user", f"<video>\n<video>\n{QUESTION}"), ("assistant", "red square")]
    later.resume(turns)
    expected = later.ask("<video>\nand this ?")
    messages += [
        {"role": "assistant", "content": "red square"},
        {"role": "user", "content": [{"type": "text", "text": "and this ?"}, show("clip1.mp4")]},
    ]
    reply = create(model=NAME, messages=messages)
    assert reply.choices[0].message.content == expected.text
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == expected.prompt_tokens


def test_length_temperature_and_seed_are_those_of_a_conversation(served: Served) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": 3, "top_p": 0.9}
    reply = ask(served, show("clip0.mp4"), max_tokens=4, **options)
    path = served.root / "clip0.mp4"
    assert reply.choices[0].message.content == expected_answer(served.model, [path], max_new_tokens=4, **options)
    others = {ask(served, show("clip0.mp4"), temperature=2, seed=seed).choices[0].message.content for seed in range(4)}
    assert len(others) > 1


def test_a_part_of_a_video_can_be_shown(served: Served) -> None:
    conversation = Conversation(served.model)
    conversation.load(served.root / "clip1.mp4", start_ms=500, end_ms=1200)
    reply = ask(served, show("clip1.mp4", start_ms=500, end_ms=1200))
    assert reply.choices[0].message.content == conversation.ask(QUESTION).text


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop_text(served: Served, stream: bool) -> None:
    whole = ask(served, show("clip0.mp4"), max_tokens=20).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    reply = ask(served, show("clip0.mp4"), max_tokens=20, stop=["never written", stop], stream=stream)
    if stream:
        pieces = list(reply)
        assert pieces[-1].choices[0].finish_reason == "stop"
        text = "".join(each.choices[0].delta.content or "" for each in pieces)
    else:
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.prompt_tokens > reply.usage.completion_tokens > 0
        text = reply.choices[0].message.content
    assert text.strip() == whole[: whole.index(stop)].strip()


def test_a_question_about_nothing_is_answered(served: Served) -> None:
    assert ask(served, question="say hello").choices[0].message.content == expected_answer(
        served.model, [], "say hello"
    )


def test_models_are_listed(served: Served) -> None:
    assert [each.id for each in served.client.models.list()] == [NAME]
    assert served.client.models.retrieve(NAME).owned_by == "membridge"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        served.client.models.retrieve("gpt")


def test_health_needs_no_key_and_all_else_does(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
    for key in ("x", "another-key-of-this-test"):
        other = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)
        with other, pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            other.models.list()
    assert httpx.get(f"{served.url}/v1/models").status_code == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_answers_as_a_session_in_this_process(served: Served, stream: bool) -> None:
    settings = served.model.training_facts.frames
    expected = StreamingSession(served.model)
    headers = {"Authorization": f"Bearer {KEY}"}
    picture = (served.root / "picture.png").read_bytes()
    frame = read_media_file(served.root / "picture.png", settings).frames
    with httpx.Client(base_url=f"{served.url}/v1", headers=headers, timeout=60) as client:
        session = client.post("/sessions").json()
        path = f"/sessions/{session['id']}"
        for times in ("0,500", "1000, 1500,2000"):
            numbers = [int(each) for each in times.split(",")]
            files = [("frames", (f"{number}.png", picture, "image/png")) for number in numbers]
            pushed = client.post(f"{path}/frames", files=files, data={"times_ms": times})
            assert pushed.status_code == 200, pushed.text
            expected.push(frame.repeat(len(numbers), 1, 1, 1), numbers)
        assert pushed.json()["boundaries"] == expected.boundaries
        assert client.get(path).json()["num_frames"] == 5
        reply = client.post(f"{path}/ask", json={"question": QUESTION, "stream": stream})
        assert reply.status_code == 200, reply.text
        if stream:
            events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
            deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
            text = "".join(delta.get("content", "") for delta in deltas).strip()
        else:
            text = reply.json()["choices"][0]["message"]["content"]
        assert text == expected.ask(QUESTION, LENGTH)
        assert client.delete(path).json()["deleted"]
        assert client.get(path).status_code == 404
