"""``python -m apps.chat`` in a real terminal and in a pipe."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

import apps.chat.__main__ as chat_command
from apps.chat.__main__ import INCOMPLETE
from command_errors import REFUSED, run_and_exit
from components.interfaces import DecodingSettings
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.conversation import Conversation
from tests.apps.slow_chat import LONGEST, SECONDS_OF_A_TOKEN
from tests.documentation import ROOT
from tests.fixtures_data import make_clip
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
QUESTIONS = ("which colour ?", "how many ?")
_LINE_READ = "\x1b[?2004l"  # bracketed paste off: behind it is what the line did
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>]")


class Expected(NamedTuple):
    """Answers of a conversation to the two questions, one after the other."""

    clip: Path
    answers: list[str]


@pytest.fixture
def expected(folders: PartFolders, tmp_path: Path) -> Expected:
    (tmp_path / "clip.mp4").write_bytes(make_clip(12))
    model = make_model(folders)
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "crop", 5), max_new_tokens=LONGEST)
    conversation = Conversation(model, DecodingSettings(max_new_tokens=LONGEST))
    conversation.load(tmp_path / "clip.mp4")
    answers = [conversation.ask(question).text for question in QUESTIONS]
    assert all(len(answer.split()) > 2 for answer in answers), "an answer must be long enough to be interrupted"
    return Expected(tmp_path / "clip.mp4", answers)


def command(folders: PartFolders, *arguments: str) -> list[str]:
    return ["-m", "tests.apps.slow_chat", str(Path(folders.encoder).parent), *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


class Terminal:
    """The chat in a terminal of its own."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._child = pexpect.spawn(
            sys.executable,
            arguments,
            cwd=str(folder),
            env=environment(TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1"),  # this terminal answers no questions
            encoding="utf-8",
            timeout=60,
            dimensions=(40, 150),
        )

    def type(self, text: str) -> None:
        self._child.send(text)

    def wait_for(self, text: str) -> str:
        """What was printed up to a text and with it, without colours and moves of the cursor."""
        self._child.expect_exact(text)
        return _SEQUENCE.sub("", self._child.before + text)

    def wait_for_prompt(self) -> None:
        """Wait until a line can be typed: bracketed paste is on, and the cursor is shown behind the prompt."""
        for sequence in ("\x1b[?2004h", "\x1b[?25h"):
            self._child.expect_exact(sequence)

    def wait_for_end(self) -> int | None:
        self._child.expect(pexpect.EOF)
        self._child.close()
        status: int | None = self._child.exitstatus
        return status

    def close(self) -> None:
        self._child.close(force=True)


@pytest.fixture
def terminal(folders: PartFolders, expected: Expected, default_signals: None) -> Iterator[Terminal]:
    folder = expected.clip.parent
    opened = Terminal(command(folders, "--video", "clip.mp4", "--history", "state/history"), folder)
    yield opened
    opened.close()


@pytest.mark.slow
def test_a_conversation_in_a_terminal(terminal: Terminal, expected: Expected) -> None:
    first, *_, last = expected.answers[0].split(" ")
    terminal.wait_for("The next question shows it.")
    terminal.wait_for_prompt()

    terminal.type(f"{QUESTIONS[0]}\r")
    terminal.wait_for(f"{_LINE_READ}{first}")
    begin = time.monotonic()
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped.")
    assert time.monotonic() - begin < 5 * SECONDS_OF_A_TOKEN + 5
    terminal.wait_for_prompt()

    terminal.type(UP)  # the question again
    terminal.wait_for(QUESTIONS[0])
    terminal.type("\r")
    terminal.wait_for(f"{_LINE_READ}{first}")
    begin = time.monotonic()
    printed = terminal.wait_for(" tokens in ")
    assert time.monotonic() - begin >= SECONDS_OF_A_TOKEN, "the first token appeared with the last one"
    assert f"{first}{printed}".startswith(expected.answers[0])
    assert last in printed
    terminal.wait_for_prompt()

    terminal.type(f"{QUESTIONS[1]}\r")
    assert expected.answers[1] in terminal.wait_for(" tokens in ")
    terminal.wait_for_prompt()
    terminal.type(CTRL_C)
    terminal.wait_for("Ctrl-D or /quit ends the program.")
    terminal.wait_for_prompt()
    terminal.type("/sce\t")
    terminal.wait_for("nes")  # what completes the name
    terminal.type("\r")
    terminal.wait_for("attended")
    terminal.wait_for_prompt()
    terminal.type("/load missing.mp4\r")
    terminal.wait_for("there is no file missing.mp4")
    terminal.wait_for_prompt()
    terminal.type(CTRL_D)
    assert terminal.wait_for_end() == 0
    history = expected.clip.parent / "state/history"
    assert "+/load missing.mp4" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_pipe_gets_the_answers_alone(folders: PartFolders, expected: Expected) -> None:
    done = subprocess.run(
        [sys.executable, *command(folders, "--video", "clip.mp4", "--max-new-tokens", "30")],
        input=f"{QUESTIONS[0]}\n/nothing\n\n{QUESTIONS[1]}".encode() + b"\n/load \xff.mp4\n/quit\nnever read\n",
        cwd=expected.clip.parent,
        env=environment(),
        capture_output=True,
        timeout=240,
    )
    assert done.stdout.decode().splitlines() == expected.answers
    errors = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert done.returncode == INCOMPLETE
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--video", "missing.mp4"], "there is no file missing.mp4"),
        (["nowhere"], "there is no model nowhere"),
        (["nowhere", "--open", "missing.jsonl"], "there is no file missing.jsonl"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:
        run_and_exit(lambda: chat_command.main(arguments))
    assert ending.value.code == REFUSED
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["rich", "prompt_toolkit"])
def test_a_missing_package_is_named(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chat_command.find_spec
    monkeypatch.setattr(chat_command, "find_spec", lambda asked: None if asked == name else found(asked))
    with pytest.raises(SystemExit) as ending:
        run_and_exit(lambda: chat_command.main(["model"]))
    assert ending.value.code == REFUSED
    assert "pip install 'membridge[chat]'" in capsys.readouterr().err
