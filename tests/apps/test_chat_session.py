"""What the lines of a chat do, with a tiny model: questions, commands, and errors that never end it."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import apps.chat.__main__ as chat_command
from apps.chat.chat_screen import ChatScreen
from apps.chat.chat_session import ChatSession
from components.interfaces import DecodingSettings
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.conversation import Conversation
from tests.fixtures_data import make_clip, make_image
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model, open_gate

FRAMES = FrameSettings(IMAGE_SIZE, "crop", 5)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders)
    open_gate(built.bridge)  # type: ignore[arg-type]
    built.training_facts = TrainingFacts(FRAMES)
    return built


@pytest.fixture
def chat(model: VideoLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChatSession:
    """A chat whose lines come from a pipe, in a folder with a video, a picture and a broken video."""
    (tmp_path / "clip.mp4").write_bytes(make_clip(12))
    (tmp_path / "my clip.mp4").write_bytes(make_clip(8))
    (tmp_path / "picture.png").write_bytes(make_image(width=40, height=30))
    (tmp_path / "broken.mp4").write_bytes(make_clip(12)[:700])
    monkeypatch.chdir(tmp_path)
    return ChatSession(talk(model), ChatScreen(is_interactive=False))


def talk(model: VideoLanguageModel) -> Conversation:
    return Conversation(model, DecodingSettings(max_new_tokens=6))


def says(chat: ChatSession, line: str, capsys: Capture) -> tuple[str, str]:
    """What a line prints: answers and tables, and messages."""
    capsys.readouterr()
    chat.handle(line)
    return capsys.readouterr()


def test_answers_are_those_of_a_conversation(chat: ChatSession, model: VideoLanguageModel, capsys: Capture) -> None:
    expected = talk(model)
    expected.load("clip.mp4")
    expected.load("picture.png")
    says(chat, "/load clip.mp4", capsys)
    says(chat, "/load picture.png", capsys)
    for question in ("which <video> and <video> ?", "  why ?  "):
        out, err = says(chat, question, capsys)
        reply = expected.ask(question.strip())
        assert out == f"{reply.text or '(the model gave an empty answer)'}\n"
        assert err == ""
    assert chat.conversation.turns == expected.turns


def test_a_part_of_a_video_shows_the_times_of_its_file(chat: ChatSession, capsys: Capture) -> None:
    _, err = says(chat, "/load clip.mp4 1 2", capsys)
    assert "4 frames from 0:01.0 to 0:01.8, 2 scenes" in err
    out, _ = says(chat, "/scenes", capsys)
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["1.", "clip.mp4"]
    assert [line[:3] for line in lines[2:]] == [
        ["1", "0:01.0", "0:01.2"],
        ["2", "0:01.5", "0:01.8"],
    ]


def test_scenes_and_memory_show_the_attention_of_the_question(chat: ChatSession, capsys: Capture) -> None:
    says(chat, "/load clip.mp4", capsys)
    says(chat, "/load picture.png", capsys)
    out, err = says(chat, "/memory", capsys)
    assert "█" not in out
    assert "Attention is shown once a question" in err
    says(chat, "which ?", capsys)
    attended = chat.conversation.segment_attention(0)
    assert attended is not None
    out, _ = says(chat, "/scenes 1", capsys)
    assert [line.split()[-1] for line in out.splitlines()[2:]] == [f"{share:.0%}" for share in attended]
    out, err = says(chat, "/memory 1", capsys)
    bars = [line.count("█") for line in out.splitlines()[2:]]
    assert bars == [round(24 * share / max(attended)) for share in attended]
    assert "no gate: it holds every scene" in err
    assert "Attention" not in err


def test_frames_change_what_is_loaded_afterwards_and_not_the_model(
    chat: ChatSession, model: VideoLanguageModel, capsys: Capture
) -> None:
    says(chat, "/load clip.mp4", capsys)
    _, err = says(chat, "/fps 2", capsys)
    assert "2 frames per second (in training: 5 frames each)" in err
    says(chat, "/load clip.mp4", capsys)
    says(chat, "/frames 3", capsys)
    says(chat, "/load clip.mp4", capsys)
    _, err = says(chat, "/fps model", capsys)
    assert "5 frames each (as in training)" in err
    says(chat, "/load clip.mp4", capsys)
    assert [medium.num_frames for medium in chat.conversation.media] == [5, 6, 3, 5]
    assert model.training_facts.frames == FRAMES
    before = chat.conversation.frames
    for wrong in ("/fps 0", "/fps nan", "/fps many", "/fps -1", "/frames 0", "/frames 1.5"):
        _, err = says(chat, wrong, capsys)
        assert err.startswith("error: ")
    assert chat.conversation.frames == before


def test_settings_change_answers(chat: ChatSession, capsys: Capture) -> None:
    _, err = says(chat, "/settings", capsys)
    assert err == "max_new_tokens 6, temperature 0.0, top_k 0, top_p 1.0, seed 0\n"
    says(chat, "/settings max-new-tokens 2", capsys)
    says(chat, "/settings temperature=0.5", capsys)
    settings = chat.conversation.settings
    assert (settings.max_new_tokens, settings.temperature) == (2, 0.5)
    assert type(settings.max_new_tokens) is int
    for wrong in ("temperature -1", "temperature", "seed 1.5", "stop_ids 3", "max_new_tokens 0", "top_p nan"):
        _, err = says(chat, f"/settings {wrong}", capsys)
        assert err.startswith("error: ")
    assert chat.conversation.settings == settings


WRONG = {
    "/lod clip.mp4": "did you mean /load?",
    "/xyz": "/help lists all",
    "/load": "/load needs a file",
    "/load missing.mp4": "there is no file missing.mp4",
    "/load broken.mp4": "broken.mp4",
    "/load clip.mp4 1:99": "'1:99' is no time in a video",
    "/load clip.mp4 2 1": "expected 0 <= start_ms < end_ms",
    "/load clip.mp4 100": "is after the video's end",
    "/load .": "is a folder",
    "/load " + "long" * 2000: "too long",
    "/save clip.mp4": "clip.mp4 is there already",
    "/save": "/save needs a file",
    "/save no/folder/talk.md": "it is not there",
    "/save talk.txt": "neither .jsonl",
    "/open missing.jsonl": "there is no file missing.jsonl",
    "/open clip.mp4": "is no saved conversation",
    "/scenes": "no video or picture is loaded",
    "/undo": "there is no question to undo",
    "/clear everything": "write /clear, or /clear all",
    "which <video> ?": "has 1 <video> marks, but 0 videos",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_prints_a_message_and_the_chat_goes_on(line: str, chat: ChatSession, capsys: Capture) -> None:
    out, err = says(chat, line, capsys)
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert WRONG[line] in err
    assert (chat.conversation.turns, chat.conversation.media, chat.has_ended) == ([], [], False)
    assert says(chat, "say hello", capsys)[0]


def test_a_path_without_load_is_pointed_out(chat: ChatSession, tmp_path: Path, capsys: Capture) -> None:
    _, err = says(chat, str(tmp_path / "clip.mp4"), capsys)
    assert f"to read a file write: /load {tmp_path / 'clip.mp4'}" in err


def test_a_full_context_loses_nothing_and_says_what_to_do(chat: ChatSession, capsys: Capture) -> None:
    says(chat, "/load clip.mp4", capsys)
    says(chat, "which ?", capsys)
    before = list(chat.conversation.turns)
    _, err = says(chat, "red " * 300, capsys)
    assert "the conversation is full" in err
    assert "/clear" in err
    assert "data.loading" not in err
    assert chat.conversation.turns == before
    assert says(chat, "why ?", capsys)[1] == ""


def test_an_unexpected_error_shows_its_traceback_and_the_chat_goes_on(
    chat: ChatSession, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chat.conversation, "ask", lambda *_: 1 / 0)
        _, err = says(chat, "why ?", capsys)
    assert "Traceback" in err
    assert "ZeroDivisionError: division by zero (unexpected; the chat goes on)" in err
    assert says(chat, "why ?", capsys)[0]


def test_clear_and_undo(chat: ChatSession, capsys: Capture) -> None:
    says(chat, "/load clip.mp4", capsys)
    first, _ = says(chat, "which ?", capsys)
    assert "Forgotten: <video>\nwhich ?" in says(chat, "/undo", capsys)[1]
    assert says(chat, "which ?", capsys)[0] == first
    says(chat, "/clear", capsys)
    assert (chat.conversation.turns, len(chat.conversation.media)) == ([], 1)
    says(chat, "/clear all", capsys)
    assert chat.conversation.media == []


def test_save_and_open(chat: ChatSession, model: VideoLanguageModel, capsys: Capture) -> None:
    says(chat, "/load clip.mp4", capsys)
    says(chat, "which ?", capsys)
    assert "Saved 2 turns to talk.jsonl" in says(chat, "/save talk.jsonl", capsys)[1]
    assert "Saved 2 turns" in says(chat, "/save talk.jsonl", capsys)[1]  # its own file may be replaced
    other = ChatSession(talk(model), ChatScreen(is_interactive=False))
    assert "is there already" in says(other, "/save talk.jsonl", capsys)[1]
    assert "2 turns about 1 medium" in says(other, "/open talk.jsonl", capsys)[1]
    assert other.conversation.turns == chat.conversation.turns
    assert "Saved 2 turns" in says(other, "/save talk.jsonl", capsys)[1]


def test_the_command_opens_a_saved_conversation_and_loads_more(
    chat: ChatSession, model: VideoLanguageModel, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(chat, "/load clip.mp4", capsys)
    says(chat, "which ?", capsys)
    says(chat, "/save talk.jsonl", capsys)
    monkeypatch.setattr(chat_command, "open_given", lambda _options: model)
    lines = io.TextIOWrapper(io.BytesIO(b"and this ?\n/save talk.md\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    options = ["--open", "talk.jsonl", "--fps", "2", "--max-new-tokens", "6", "--video", "picture.png", "clip.mp4"]
    assert chat_command.main(["model", *options]) == 0
    out, err = capsys.readouterr()
    expected = talk(model)
    expected.load("clip.mp4")
    expected.load("picture.png")
    expected.frames = replace(FRAMES, num_frames=None, fps=2.0)
    expected.load("clip.mp4")
    expected.resume(chat.conversation.turns)
    assert out == f"{expected.ask('and this ?').text or '(the model gave an empty answer)'}\n"
    assert "3. clip.mp4: 6 frames" in err
    assert "and this ?" in Path("talk.md").read_text()


def test_help_lists_every_command_and_quit_ends(chat: ChatSession, capsys: Capture) -> None:
    out, _ = says(chat, "/help", capsys)
    assert all(name in out for name in chat.commands)
    says(chat, "/quit", capsys)
    assert chat.has_ended


def test_control_characters_do_not_reach_a_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: VideoLanguageModel, tmp_path: Path
) -> None:
    name = "a\x1b]0;title\x07.mp4"
    (tmp_path / name).write_bytes(make_clip(4))
    chat = ChatSession(talk(model), ChatScreen(is_interactive=False))
    chat.load(tmp_path / name)
    chat.handle("/scenes")
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert "\x07" not in printed
