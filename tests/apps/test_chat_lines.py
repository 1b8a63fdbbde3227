"""How lines of a chat are read, completed and printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from apps.chat.chat_arguments import split_load
from apps.chat.chat_lines import CommandCompleter
from apps.chat.chat_screen import AnswerWriter, ChatScreen
from components.interfaces import NewTokens


@pytest.fixture
def beside_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder with files of these names: a path ends where a file of its name is there."""
    for name in ("clip.mp4", "my clip.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_clips")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip.mp4", ("clip.mp4", None, None)),
        ("clip.mp4 1.5", ("clip.mp4", 1500, None)),
        ("clip.mp4 0:01 1:00", ("clip.mp4", 1000, 60_000)),
        ("my clip.mp4", ("my clip.mp4", None, None)),
        ("my clip.mp4 1 2", ("my clip.mp4", 1000, 2000)),
        ("'my clip.mp4' 1", ("my clip.mp4", 1000, None)),
        ("my\\ clip.mp4", ("my clip.mp4", None, None)),
        ("don't.mp4", ("don't.mp4", None, None)),
    ],
)
def test_load_reads_paths_and_times(text: str, expected: tuple[str, int | None, int | None]) -> None:
    path, *times = split_load(text)
    assert (str(path), *times) == expected


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        ([" a", " b", " ", "\n", "c ", " "], "a b \nc\n"),
        (["", " ", ""], "(the model gave an empty answer)\n"),
    ],
)
def test_white_space_around_an_answer_is_not_written(
    texts: list[str], written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = AnswerWriter(ChatScreen(is_interactive=False))
    for text in texts:
        writer.add(NewTokens((1,), (text,)))
    writer.end()
    assert capsys.readouterr().out == written


@pytest.mark.usefixtures("beside_clips")
def test_completion_of_commands_and_paths() -> None:
    commands = ["/load", "/save", "/scenes", "/settings", "/undo"]

    def completed(text: str) -> Iterator[str]:
        document = Document(text)
        for found in CommandCompleter(commands).get_completions(document, CompleteEvent()):
            yield text[: len(text) + found.start_position] + found.text

    assert set(completed("/s")) == {"/scenes", "/settings", "/save"}
    assert list(completed("/load cl")) == ["/load clip.mp4"]
    assert list(completed("/load my c")) == ["/load my clip.mp4"]
    assert list(completed("what is /s")) == []
