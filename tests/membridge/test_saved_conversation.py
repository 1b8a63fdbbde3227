"""A stored conversation is read back with its media and turns; a damaged one changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.interfaces import DecodingSettings
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.conversation import Conversation
from membridge.saved_conversation import read_saved, restore, save
from tests.fixtures_data import make_clip, make_image
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model, open_gate

FRAMES = FrameSettings(IMAGE_SIZE, "crop", 4)


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders)
    open_gate(built.bridge)  # type: ignore[arg-type]
    built.training_facts = TrainingFacts(FRAMES)
    return built


@pytest.fixture
def conversation(model: VideoLanguageModel, tmp_path: Path) -> Conversation:
    """A conversation about a video, a part of it with other frames, and a picture; the last was not shown yet."""
    (tmp_path / "clip.mp4").write_bytes(make_clip(12))
    (tmp_path / "a picture.png").write_bytes(make_image(width=40, height=30))
    built = talk(model, system="be brief")
    built.load(tmp_path / "clip.mp4")
    built.ask("which ?")
    built.frames = replace(FRAMES, num_frames=None, fps=3.0)
    built.load(tmp_path / "clip.mp4", start_ms=1000, end_ms=2000)
    built.ask("und jetzt, 今 ?")
    built.load(tmp_path / "a picture.png")
    return built


def talk(model: VideoLanguageModel, system: str | None = None) -> Conversation:
    return Conversation(model, DecodingSettings(max_new_tokens=4), system)


def facts(conversation: Conversation) -> list[Any]:
    media = [(each.name, each.frame_ms, each.source, each.frames.tolist()) for each in conversation.media]
    return [conversation.turns, media]


def test_what_is_read_back_is_what_was_saved(
    conversation: Conversation, model: VideoLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(conversation, tmp_path / "talk.jsonl")
    monkeypatch.chdir("/")
    opened = talk(model)
    restore(opened, read_saved(tmp_path / "talk.jsonl"))
    assert facts(opened) == facts(conversation)
    resumed = talk(model)
    for medium in conversation.media:
        resumed.add(medium)
    resumed.resume(conversation.turns)
    assert opened.ask("and this ?").text == resumed.ask("and this ?").text
    assert opened.turns[-2] == ("user", "<video>\nand this ?")


def test_media_without_a_question_answer_as_before_they_were_saved(model: VideoLanguageModel, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(make_clip(12))
    first, opened = talk(model), talk(model)
    first.load(tmp_path / "clip.mp4")
    save(first, tmp_path / "talk.jsonl")
    restore(opened, read_saved(tmp_path / "talk.jsonl"))
    assert opened.ask("which ?").text == first.ask("which ?").text


def test_a_file_for_people_has_every_text_and_medium(conversation: Conversation, tmp_path: Path) -> None:
    save(conversation, tmp_path / "talk.md")
    text = (tmp_path / "talk.md").read_text()
    assert "a picture.png`: 1 frame" in text
    assert "clip.mp4`: 3 frames from 0:01.0 to 0:01.8" in text
    assert "**system**\n\nbe brief\n" in text
    assert "今" in text
    with pytest.raises(ValueError, match="is for people"):
        read_saved(tmp_path / "talk.md")
    with pytest.raises(ValueError, match=r"neither \.jsonl"):
        save(conversation, tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (0, '{"role": "user", "text": "hi"}', "its first line is not"),
        (0, '{"conversation": 2}', "its first line is not"),
        (1, '{"media": "clip.mp4"}', "line 2 is neither"),
        (
            1,
            '{"media": "clip.mp4", "start_ms": "1", "end_ms": null, "frames": {}}',
            "expected a path, and milliseconds",
        ),
        (1, '{"media": "a", "start_ms": null, "end_ms": null, "frames": {"size": 3}}', "unexpected keyword"),
        (1, '{"media": "a", "start_ms": null, "end_ms": null, "frames": {"fps": -1, "num_frames": null}}', "positive"),
        (4, '{"role": "robot", "text": "hi"}', "line 5 is neither a medium nor a turn: expected a role"),
        (4, '{"role": "user", "text": "hi', "is no saved conversation"),
        (4, "[]", "is no saved conversation"),
        (4, '{"role": "user", "text": "<video><video><video>"}', "shows 5 media but lists 3"),
    ],
)
def test_a_damaged_file_is_refused(
    number: int, line: str, message: str, conversation: Conversation, tmp_path: Path
) -> None:
    path = tmp_path / "talk.jsonl"
    save(conversation, path)
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_saved(path)


def test_where_a_medium_is_missing_the_present_conversation_stays(conversation: Conversation, tmp_path: Path) -> None:
    save(conversation, tmp_path / "talk.jsonl")
    (tmp_path / "a picture.png").unlink()
    before = facts(conversation)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a picture\.png"):
        restore(conversation, read_saved(tmp_path / "talk.jsonl"))
    assert facts(conversation) == before


def test_another_model_reads_media_as_its_own_settings_say(conversation: Conversation, tmp_path: Path) -> None:
    save(conversation, tmp_path / "talk.jsonl")
    frames = [json.loads(line)["frames"] for line in (tmp_path / "talk.jsonl").read_text().splitlines()[1:4]]
    changed = {"num_frames": None, "fps": 3.0, "max_frames": None}
    assert frames == [{}, changed, changed]


def test_frames_without_a_file_are_not_saved_for_reading_back(model: VideoLanguageModel, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(make_clip(12))
    conversation = talk(model)
    medium = talk(model).load(tmp_path / "clip.mp4")
    conversation.add(medium._replace(source=None))
    save(conversation, tmp_path / "talk.md")
    with pytest.raises(ValueError, match="did not come from a file"):
        save(conversation, tmp_path / "talk.jsonl")
    assert not (tmp_path / "talk.jsonl").exists()
