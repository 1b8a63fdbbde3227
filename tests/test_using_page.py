"""The commands and the code of docs/using.md do what the page says, on tiny parts."""

import argparse
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import apps.chat.__main__ as chat
import apps.demo.__main__ as demo
import membridge
from apps import ask, caption, serve
from apps.chat.chat_arguments import COMMANDS
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.serving.serving_limits import ServingOptions
from tests.documentation import blocks_of, prose_of, record_commands, write_shown_files
from tests.fixtures_data import make_clip, make_image, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders
from tests.fixtures_serving import LENGTH, make_served_model, running_server

PAGE = "docs/using.md"
MODEL = "runs/quickstart/model"
KEY = "0123456789abcdef-key"
SHOWN_ADDRESS = "http://127.0.0.1:8000"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exported(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_served_model(folders)
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "crop", None, 2.0), LENGTH)
    folder = tmp_path_factory.mktemp("exported") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader, with a model and with the files that the page names."""
    shutil.copytree(exported, tmp_path / MODEL)
    clip = make_clip(48, fps=2, frames=natural_frames(48, 48, 64))
    for name in ("runs/quickstart/video.mp4", "other.mp4"):
        (tmp_path / name).write_bytes(clip)
    for name in ("picture.png", "frame1.png", "frame2.png"):
        (tmp_path / name).write_bytes(make_image(90))
    write_shown_files(PAGE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """Address of the page's server."""
    (folder / "uploads").mkdir()
    (folder / "serve.key").write_text(f"{KEY}\n")
    options = ServingOptions(Path(MODEL).name, folder / "uploads", folder / "runs/quickstart", api_key=KEY)
    with running_server(membridge.load(MODEL), options) as address:
        yield address


def calls_of(program: str, folder: Path) -> list[list[str]]:
    """Arguments of the page's calls of a program, or of a module of Python."""
    (folder / "shell").mkdir()
    calls = record_commands(PAGE, ["python", "pip", "openssl", "curl", "ffmpeg"], folder / "shell")
    beginning = ["python", "-m", program] if program.startswith("apps.") else [program]
    return [call[len(beginning) :] for call in calls if call[: len(beginning)] == beginning]


def shown_json(beginning: str) -> Any:
    """The JSON object of the page that begins with this text."""
    [text] = [block.text for block in blocks_of(PAGE, "") if block.text.startswith(beginning)]
    return json.loads(text)


def run_chat(arguments: list[str], lines: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a chat prints about lines from a pipe, all of which it understands."""
    typed = "".join(f"{line}\n" for line in lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    capsys.readouterr()
    assert chat.main(arguments) == 0
    return "".join(capsys.readouterr())


def help_of(main: Callable[[list[str]], object], capsys: Capture) -> str:
    """A command's help on one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    return " ".join(capsys.readouterr().out.split())


def test_every_question_of_the_page_is_answered(folder: Path, capsys: Capture) -> None:
    calls = calls_of("apps.ask", folder)
    assert len(calls) == 5
    for arguments in calls:
        capsys.readouterr()
        assert ask.main(arguments) == 0
        printed = capsys.readouterr().out
        if "--json" in arguments:
            found, shown = json.loads(printed), shown_json('{"medium"')
            assert (found.keys(), found["tokens"].keys()) == (shown.keys(), shown["tokens"].keys())
            assert all(found[name] == shown[name] for name in ("medium", "start", "end", "frames", "question"))
        if "--questions" in arguments:
            assert f"It prints `{printed.strip()}`." in prose_of(PAGE)
            assert len((folder / "answers.jsonl").read_text().splitlines()) == 2


def test_every_caption_command_of_the_page_runs(folder: Path, capsys: Capture) -> None:
    from_file, from_pipe = calls_of("apps.caption", folder)
    capsys.readouterr()
    assert caption.main(from_file) == 0
    printed = capsys.readouterr()
    [shown] = [block.text for block in blocks_of(PAGE, "") if block.text.startswith("[00:00")]
    form = re.compile(r"\[\d\d:\d\d - \d\d:\d\d\] .+")
    assert all(form.fullmatch(line) for line in [*shown.splitlines(), *printed.out.splitlines()])
    summary = re.compile(r"runs/quickstart/video\.mp4: [\d,]+ captions of [\d,]+ frames")
    assert summary.fullmatch(printed.err.splitlines()[-1])
    assert summary.search(prose_of(PAGE))
    assert (folder / "video.srt").is_file()
    assert from_pipe == [MODEL, "-", "--about", "video"]  # tests/apps/test_caption.py runs it with a pipe


def test_the_chat_of_the_page_goes_as_shown(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of("apps.chat", folder)
    assert len(calls) == 2
    for arguments in calls:
        run_chat(arguments, ["Which shape was shown?"], capsys, monkeypatch)
    [shown] = [block.text for block in blocks_of(PAGE, "") if block.text.startswith("> /load")]
    printed = run_chat([MODEL], re.findall(r"^> (.*)$", shown, re.MULTILINE), capsys, monkeypatch)
    for line in ("1. video.mp4: 20 frames from 0:10.0 to 0:19.5", "Saved 4 turns to talk.jsonl."):
        assert line in shown
        assert line in printed
    named = re.findall(r"`(/\w+)", prose_of(PAGE))
    assert set(named) == set(COMMANDS)


def test_the_demo_of_the_page_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page in the browser does is in test_demo_page."""
    shown: list[argparse.Namespace] = []
    monkeypatch.setattr(demo, "serve", lambda _model, options: shown.append(options))
    [arguments] = calls_of("apps.demo", folder)
    demo.main(["--port", "0", *arguments])
    [options] = shown
    [(name, address)] = re.findall(r"`showing (\w+) at (\S+) \(Ctrl-C ends it\)`", prose_of(PAGE))
    assert name == Path(options.model).name
    assert address == f"http://{options.host}:7860/"


def test_limits_of_the_page_are_those_of_the_demo(capsys: Capture) -> None:
    printed = help_of(demo.main, capsys)
    assert "(default: 7860)" in printed
    rows = re.findall(r"^\| [^|]+ \| `(--[^|]+)` \| (\d+)(?: MiB| seconds)? \|$", prose_of(PAGE), re.MULTILINE)
    assert len(rows) == 3
    for option, default in rows:
        assert re.search(rf"{option} [A-Z_]+ [^()]*\(default: {default}\)", printed), option


def test_python_of_the_page_runs(server: str, capsys: Capture) -> None:
    client, conversation, streaming = (block.text for block in blocks_of(PAGE, "python"))
    assert SHOWN_ADDRESS in client
    exec(client.replace(SHOWN_ADDRESS, server), {})  # the page's own code
    capsys.readouterr()
    exec(conversation, {})
    assert "Scene(start_ms=0, " in capsys.readouterr().out
    exec(streaming, {})
    assert re.fullmatch(r"19\.5 s: .*\n", capsys.readouterr().out)


def test_a_session_goes_as_shown(server: str, folder: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-d", dest="body")
    for name in ("-H", "-F"):
        parser.add_argument(name, action="append", default=[])
    replies = []
    for call in calls_of("curl", folder):
        given = parser.parse_args(call)
        url = given.url.replace(SHOWN_ADDRESS, server)
        if replies:
            url = re.sub(r"session-\w+", replies[0]["id"], url)
        headers = dict(header.split(": ", 1) for header in given.H)
        headers["Authorization"] += KEY  # the shell read an empty file of a key
        fields = [field.split("=", 1) for field in given.F]
        files = [(name, Path(value[1:]).read_bytes()) for name, value in fields if value.startswith("@")]
        data = {name: value for name, value in fields if not value.startswith("@")}
        reply = httpx.request(
            given.method or "POST", url, headers=headers, content=given.body, data=data, files=files, timeout=60
        )
        assert reply.status_code == 200, reply.text
        replies.append(reply.json())
    assert len(replies) == 4
    [shown] = re.findall(r"`(\"num_frames\".*?)`", prose_of(PAGE))
    expected = json.loads(f"{{{shown}}}") | {"boundaries": replies[1]["boundaries"]}  # those of the tiny model
    assert {name: replies[1][name] for name in expected} == expected
    assert replies[3]["deleted"]


def test_every_route_of_the_page_is_there(server: str) -> None:
    routes = re.findall(r"`(GET|POST|DELETE) (/[\w/]+)`", prose_of(PAGE).replace("`GET`, `DELETE", "`DELETE"))
    assert len(set(routes)) == 10
    for method, path in set(routes):
        reply = httpx.request(method, server + path, headers={"Authorization": f"Bearer {KEY}"})
        found = reply.json().get("error") or {}
        assert found.get("code") != "no_such_route", f"{method} {path}"


def test_limits_of_the_page_are_those_of_the_server(capsys: Capture) -> None:
    printed = help_of(serve.main, capsys)
    rows = re.findall(r"^\| [^|]+ \| ([\d, ]+?)(?: MiB)? \| (`--[^|]+) \|", prose_of(PAGE), re.MULTILINE)
    assert len(rows) > 4
    for defaults, options in rows:
        for default, option in zip(defaults.split(", "), options.split(", "), strict=True):
            found = re.search(rf"{option.strip('`')} [A-Z_]+ [^()]*\(default: ([\d.]+)\)", printed)
            assert found is not None, option
            assert float(found[1]) == float(default), option


def test_every_option_of_the_page_is_in_the_help(capsys: Capture) -> None:
    mains = (ask.main, caption.main, chat.main, demo.main, serve.main)
    known = {word for main in mains for word in help_of(main, capsys).split()}
    spans = [span for span in re.findall(r"`[^`\n]+`", prose_of(PAGE)) if not span.startswith("`make")]
    named = {option for span in spans for option in re.findall(r"--[a-z-]+", span)}
    assert len(named) > 10
    assert {each for each in named if not {each, f"[{each}", f"{each}]"} & known} == set()
