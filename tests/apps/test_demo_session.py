"""What a tab of the demo does, with a tiny model and without a browser."""

import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apps.demo.webcam
from apps.demo.answer_pieces import StoppedError
from apps.demo.demo_session import Caption, DemoOptions, DemoSession
from apps.demo.demo_tabs import DemoSessions
from apps.demo.scene_strip import StripVideo, captions_html, scenes_html
from components.model import VideoLanguageModel
from membridge.conversation import Conversation
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import QUESTION, expected_answer, make_served_model, write_media

FRAME = np.full((48, 64, 3), 90, dtype=np.uint8)


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    return make_served_model(folders)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    write_media(tmp_path)
    return tmp_path


@pytest.fixture
def session(model: VideoLanguageModel) -> DemoSession:
    return DemoSession(model, DemoOptions(), threading.Lock())


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the webcam's clock forward by seconds."""
    now = [0.0]
    monkeypatch.setattr(apps.demo.webcam.time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_answers_are_those_of_a_conversation(session: DemoSession, model: VideoLanguageModel, media: Path) -> None:
    expected = Conversation(model)
    expected.load(media / "clip0.mp4")
    session.read(media / "clip0.mp4")
    for question in (QUESTION, "and then ?"):
        pieces = list(session.ask(question))
        assert pieces[-1] == expected.ask(question).text
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(pieces))
    assert session.conversation.turns == expected.turns
    assert session.attention() == pytest.approx(expected.segment_attention(0))


def test_every_scene_gets_a_caption_up_to_the_limit(model: VideoLanguageModel, media: Path) -> None:
    for most, expected in ((50, 3), (2, 2), (0, 0)):
        session = DemoSession(model, DemoOptions(max_captions=most), threading.Lock())
        medium = session.read(media / "clip0.mp4")
        captions = list(session.caption_scenes())
        assert len(medium.scenes) == 3
        assert len(captions) == expected
        assert session.captions == captions
        assert [each[:2] for each in captions] == [each[:2] for each in medium.scenes][:expected]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.mp4", "cannot be decoded"),
        ("text.mp4", "none of a video or picture"),
        ("empty.mp4", "is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(session: DemoSession, media: Path, name: str, message: str) -> None:
    session.read(media / "clip0.mp4")
    with pytest.raises((ValueError, OSError), match=message):
        session.read(media / name)
    assert session.medium is None
    with pytest.raises(ValueError, match="no video yet"):
        list(session.ask(QUESTION))


def test_a_video_that_is_too_long_is_refused(model: VideoLanguageModel, media: Path) -> None:
    session = DemoSession(model, DemoOptions(max_seconds=1.0), threading.Lock())
    with pytest.raises(ValueError, match="longer than 1 seconds"):
        session.read(media / "clip0.mp4")


def test_a_new_video_ends_the_captions_of_the_one_before(session: DemoSession, media: Path) -> None:
    session.read(media / "clip0.mp4")
    captions = session.caption_scenes()
    next(captions)
    session.read(media / "clip1.mp4")
    with pytest.raises(StoppedError):
        next(captions)
    assert session.captions == []


def test_a_stopped_answer_leaves_the_conversation_as_it_was(session: DemoSession, media: Path) -> None:
    session.read(media / "clip0.mp4")
    stopped = session.ask(QUESTION)
    with session._model_lock:  # the model is busy, so the answer waits
        thread = threading.Thread(target=lambda: _exhaust(stopped))
        thread.start()
        while not any(each.name == "answer" for each in threading.enumerate()):
            pass
        session.stop_answer()
    thread.join(60)
    assert session.conversation.turns == []
    assert list(session.ask(QUESTION))[-1] == expected_answer(session.model, [media / "clip0.mp4"])


def _exhaust(pieces: Any) -> None:
    with pytest.raises(StoppedError):
        list(pieces)


def test_an_abandoned_answer_frees_the_model(session: DemoSession, media: Path) -> None:
    session.read(media / "clip0.mp4")
    pieces = session.ask(QUESTION)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not session._model_lock.locked()
    assert not any(each.name == "answer" for each in threading.enumerate())


def test_tabs_do_not_know_each_other(model: VideoLanguageModel, media: Path) -> None:
    tabs = DemoSessions(model, DemoOptions())
    tabs.of("one").read(media / "clip0.mp4")
    tabs.of("other").read(media / "clip1.mp4")
    answers = {name: list(tabs.of(name).ask(QUESTION))[-1] for name in ("one", "other")}
    assert answers["one"] == expected_answer(model, [media / "clip0.mp4"])
    assert answers["other"] == expected_answer(model, [media / "clip1.mp4"])
    assert tabs.of("third").medium is None


def test_a_closed_tab_leaves_nothing(model: VideoLanguageModel, media: Path) -> None:
    tabs = DemoSessions(model, DemoOptions())
    for name in ("one", "same"):
        tabs.of(name).read(media / "clip0.mp4")
    session = tabs.of("one")
    tabs.forget("one")
    assert session.medium is None
    assert (media / "clip0.mp4").exists()  # the other tab shows it
    tabs.forget("same")
    tabs.forget("never opened")
    assert not (media / "clip0.mp4").exists()
    assert len(tabs) == 0


def test_there_are_never_more_tabs_than_allowed(model: VideoLanguageModel) -> None:
    tabs = DemoSessions(model, DemoOptions(), most=2)
    first = tabs.of("a")
    for name in "abcb":
        tabs.of(name)
    assert len(tabs) == 2
    assert tabs.of("a") is not first


def test_a_webcam_is_read_at_the_rate_of_training(session: DemoSession, tick: Callable[[float], None]) -> None:
    session.takes_webcam = True
    for _ in range(40):  # 10 s, 4 frames a second
        session.watch(FRAME)
        tick(0.25)
    assert session.webcam is not None
    assert session.webcam.video.frame_ms == list(range(0, 10_000, 500))
    assert len(session.captions) == len(session.webcam.pictures) == len(session.webcam.scenes) == 10
    assert list(session.ask(QUESTION))[-1]


def test_webcam_frames_are_left_out_while_a_file_is_shown(session: DemoSession, media: Path) -> None:
    session.takes_webcam = True
    assert session.watch(FRAME)
    session.read(media / "clip0.mp4")
    assert not session.watch(FRAME)
    assert session.webcam is None
    assert session.medium is not None


def test_a_webcam_ends_at_the_limit(model: VideoLanguageModel, tick: Callable[[float], None]) -> None:
    session = DemoSession(model, DemoOptions(max_seconds=2.0), threading.Lock())
    session.takes_webcam = True
    session.watch(FRAME)
    tick(2.1)
    with pytest.raises(ValueError, match="played for 2 seconds"):
        session.watch(FRAME)
    session.clear()
    assert session.watch(FRAME)


def test_the_strip_shows_scenes_memory_and_attention(session: DemoSession, media: Path) -> None:
    medium = session.read(media / "clip0.mp4")
    before = scenes_html(StripVideo.of_file(medium))
    assert before.count("<figure") == before.count("data:image/jpeg") == len(medium.scenes)
    assert before.count('class="cut"') == len(medium.scenes) - 1
    assert before.count("polyline") == 1
    assert "bar attended" not in before
    shares = [0.5, 0.25, 0.25]
    gated = medium._replace(scenes=[scene._replace(admitted=float(i == 1)) for i, scene in enumerate(medium.scenes)])
    after = scenes_html(StripVideo.of_file(gated, shares))
    assert after.count('class="scene kept"') == after.count('class="block admitted"') == 1
    assert "admitted to the memory: 1" in after
    assert [f'title="attended {share:.0%}"' in after for share in shares] == [True] * 3


def test_what_a_model_writes_is_text_on_the_page() -> None:
    shown = captions_html([Caption(0, 61_000, "<script>alert(1)</script>")])
    assert "<script>" not in shown
    assert re.search(r"0:00 . 1:01", shown)
