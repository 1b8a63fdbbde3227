"""A running server with a tiny model, and the answers that it should give."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn

from components.interfaces import DecodingSettings
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.answering_model import with_answers
from membridge.conversation import Conversation
from membridge.serving.header_timeout import HeaderTimeoutProtocol
from membridge.serving.serving_limits import ServingOptions
from membridge.serving.web_application import build_application
from tests.documentation import ROOT
from tests.fixtures_data import make_clip, make_image, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model, open_gate

NAME = "tiny"
LENGTH = 6
QUESTION = "which colour ?"


def make_served_model(folders: PartFolders) -> VideoLanguageModel:
    """A tiny model that reads files."""
    model = make_model(folders)
    open_gate(model.bridge)  # type: ignore[arg-type]
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "crop", 6), LENGTH)
    return with_answers(model)


def write_media(folder: Path) -> None:
    """Write two clips, a picture, and three files that cannot be decoded."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        frames = natural_frames(8, 48, 64, seed=number)
        (folder / f"clip{number}.mp4").write_bytes(make_clip(8, frames=frames))
    (folder / "picture.png").write_bytes(make_image(90))
    (folder / "broken.mp4").write_bytes((folder / "clip0.mp4").read_bytes()[:700])
    (folder / "text.mp4").write_bytes(b"this is no video" * 100)
    (folder / "empty.mp4").write_bytes(b"")


def expected_answer(model: VideoLanguageModel, paths: list[Path], question: str = QUESTION, **settings: Any) -> str:
    """What a conversation answers to a question about these files.

    Args:
        model: See ``make_served_model``.
        paths: Media that the question shows.
        question: Plain text.
        settings: Options of ``DecodingSettings``.
    """
    conversation = Conversation(model)
    if settings:
        conversation.settings = DecodingSettings(**settings)
    for path in paths:
        conversation.load(path)
    return conversation.ask(question).text


@contextlib.contextmanager
def running_server(model: VideoLanguageModel, options: ServingOptions) -> Iterator[str]:
    """Run the application in a thread of this process; gives its address."""
    torch.set_num_threads(1)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        build_application(model, options), http=HeaderTimeoutProtocol, ws="none", log_level="warning", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class ServerProcess:
    """``python -m apps.serve`` in a process of its own, which is killed at the end.

    Args:
        arguments: Its command line; the port is chosen here.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed at the end
        self.process = subprocess.Popen(
            [sys.executable, "-m", "apps.serve", *arguments, "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        self.url = ""
        self.printed = ""  # at the end

    def __enter__(self) -> "ServerProcess":
        end = time.monotonic() + 120
        while not self.url and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            found = re.search(r"serving \S+ at (http://\S+)/v1", self.output())
            self.url = found[1] if found else ""
        assert self.url, self.output()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.printed = self.output()
        self._output.close()

    def output(self) -> str:
        """What the command has printed so far."""
        return os.pread(self._output.fileno(), 1 << 22, 0).decode()
