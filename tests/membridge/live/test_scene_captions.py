"""Captions of scenes: which frames they are about, and when."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.segmenters.uniform import Uniform
from components.streaming import StreamingSession
from membridge.live import scene_captions
from membridge.live.caption_files import Caption
from membridge.live.frame_queue import LiveFrame
from membridge.live.scene_captions import CaptionOptions, SceneCaptioner
from tests.fixtures_models import PartFolders, make_frames, make_model, open_gate

QUESTION = "which colour ?"
SEGMENTERS: list[Callable[[], Any]] = [
    lambda: FixedLength(3),
    lambda: SceneTilling(alpha=0.5),
    lambda: SceneTilling(alpha=0.0, max_segment_frames=5),
]


def build(folders: PartFolders, segmenter: Any) -> VideoLanguageModel:
    model = make_model(folders, segmenter=segmenter)
    open_gate(model.bridge)  # type: ignore[arg-type]
    return model


def live_frames(count: int, *, seed: int = 0) -> list[LiveFrame]:
    return [LiveFrame(pixels, 500 * number) for number, pixels in enumerate(make_frames(count, seed=seed))]


def captions_of(
    model: VideoLanguageModel, frames: list[LiveFrame], about: Any = "scene", at_once: int | None = None
) -> tuple[SceneCaptioner, list[Caption]]:
    captioner = SceneCaptioner(model, CaptionOptions(QUESTION, about, 4))
    step = at_once or captioner.frames_at_once
    captions = []
    for first in range(0, len(frames), step):
        captions += captioner.push(frames[first : first + step])
    return captioner, [*captions, *captioner.finish()]


def offline_boundaries(model: VideoLanguageModel, frames: list[LiveFrame]) -> list[int]:
    session = StreamingSession(model)
    session.push(torch.stack([each.pixels for each in frames]), [each.time_ms for each in frames])
    return session.boundaries


def answer_about(model: VideoLanguageModel, frames: list[LiveFrame]) -> str:
    session = StreamingSession(model)
    start = frames[0].time_ms
    session.push(torch.stack([each.pixels for each in frames]), [each.time_ms - start for each in frames])
    return session.ask(QUESTION, 4)


@pytest.mark.parametrize("about", ["scene", "video"])
@pytest.mark.parametrize("number", range(len(SEGMENTERS)))
def test_scenes_are_those_of_a_session_and_cover_the_video(about: str, number: int, folders: PartFolders) -> None:
    model = build(folders, SEGMENTERS[number]())
    frames = live_frames(29)
    captioner, captions = captions_of(model, frames, about)
    boundaries = offline_boundaries(model, frames)
    assert captioner.boundaries == boundaries
    assert len(boundaries) > 1
    ends = [*boundaries, *([28] if boundaries[-1] < 28 else [])]
    assert [each.end_ms for each in captions] == [500 * (end + 1) for end in ends]
    assert captions[0].start_ms == 0
    assert [each.start_ms for each in captions[1:]] == [each.end_ms for each in captions[:-1]]
    assert sum(each.num_frames for each in captions) == 29


def test_a_caption_about_a_scene_is_the_answer_about_these_frames_alone(folders: PartFolders) -> None:
    model = build(folders, SceneTilling(alpha=0.5))
    frames = live_frames(29)
    captioner, captions = captions_of(model, frames)
    starts = [0, *(last + 1 for last in captioner.boundaries)]
    parts = [frames[first:last] for first, last in zip(starts, [*starts[1:], 29], strict=True)]
    assert [each.text for each in captions] == [answer_about(model, part) for part in parts if part]


def test_a_caption_about_the_video_shows_no_later_frame(folders: PartFolders) -> None:
    model = build(folders, FixedLength(3))
    frames = live_frames(11)
    _, captions = captions_of(model, frames, "video")
    assert [each.text for each in captions] == [answer_about(model, frames[:end]) for end in (3, 6, 9, 11)]


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_how_many_frames_come_at_once_changes_no_caption(at_once: int, folders: PartFolders) -> None:
    model = build(folders, SceneTilling(alpha=0.5))
    frames = live_frames(29)
    _, expected = captions_of(model, frames)
    assert captions_of(model, frames, at_once=at_once)[1] == [
        each._replace(end_ms=other.end_ms) for each, other in zip(expected, expected, strict=True)
    ]


def test_a_video_that_ends_with_a_scene_has_no_empty_last_caption(folders: PartFolders) -> None:
    _, captions = captions_of(build(folders, FixedLength(4)), live_frames(8))
    assert [(each.start_ms, each.end_ms, each.num_frames) for each in captions] == [(0, 2000, 4), (2000, 4000, 4)]


def test_scenes_of_frames_with_equal_times_still_have_a_length(folders: PartFolders) -> None:
    frames = [each._replace(time_ms=0) for each in live_frames(8)]
    _, captions = captions_of(build(folders, FixedLength(2)), frames)
    assert all(each.start_ms < each.end_ms for each in captions)
    assert all(later.start_ms >= earlier.end_ms for earlier, later in pairwise(captions))


def test_a_scene_that_does_not_end_needs_bounded_memory_and_is_shown_evenly(
    folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_captions, "MOST_FRAMES", 8)
    model = build(folders, FixedLength(100))
    frames = live_frames(50)
    captioner = SceneCaptioner(model, CaptionOptions(QUESTION, "scene", 4))
    for each in frames:
        assert list(captioner.push([each])) == []
        assert len(captioner._frames) <= 8
    shown: list[int] = []

    class Recording(StreamingSession):
        def push(self, frames: Tensor, frame_ms: Tensor | Sequence[int]) -> None:
            shown.extend(int(time) // 500 for time in frame_ms)
            super().push(frames, frame_ms)

    monkeypatch.setattr(scene_captions, "StreamingSession", Recording)
    [caption] = captioner.finish()
    assert caption.num_frames == 50
    assert 4 <= len(shown) <= 8
    assert shown == list(range(0, 50, shown[1]))
    assert caption.text == answer_about(model, frames[:: shown[1]])


def test_every_scene_has_a_caption_where_frames_were_thinned_before_it_was_found(
    folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_captions, "MOST_FRAMES", 2)
    model = build(folders, SceneTilling(alpha=0.5))
    frames = live_frames(60, seed=3)
    captioner, captions = captions_of(model, frames)
    assert captioner.boundaries == offline_boundaries(model, frames)
    assert len(captions) >= len(captioner.boundaries) > 3


def test_a_model_that_needs_the_complete_video_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="Uniform knows no boundary before the video has ended"):
        SceneCaptioner(build(folders, Uniform(3)), CaptionOptions())
