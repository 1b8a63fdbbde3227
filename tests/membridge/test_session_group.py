"""Sessions that are pushed together see and answer what each sees and answers alone."""

import pytest
import torch
from torch import Tensor

from components.encoders.languagebind import LanguageBindEncoder
from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.segmenters.uniform import Uniform
from components.streaming import NextFrames, StreamingSession
from membridge.session_group import SessionGroup
from tests.components.encoders import languagebind_folders
from tests.fixtures_models import PartFolders, make_frames, make_model, open_gate

QUESTION = "which colour ?"


def build(folders: PartFolders, **changes: object) -> VideoLanguageModel:
    model = make_model(folders, **({"segmenter": FixedLength(3)} | changes))
    open_gate(model.bridge)  # type: ignore[arg-type]
    return model


def times(first: int, count: int) -> list[int]:
    return [1000 * (first + frame) for frame in range(count)]


def push_in_turns(group: SessionGroup, sessions: list[StreamingSession], videos: list[Tensor], step: int) -> None:
    """Push all videos side by side, a video that has ended no more."""
    for first in range(0, max(map(len, videos)), step):
        parts = [video[first : first + step] for video in videos]
        given = [
            NextFrames(session, part, times(first, len(part)))
            for session, part in zip(sessions, parts, strict=True)
            if len(part)
        ]
        group.push(given)


def assert_as_alone(model: VideoLanguageModel, sessions: list[StreamingSession], videos: list[Tensor]) -> None:
    for session, video in zip(sessions, videos, strict=True):
        alone = StreamingSession(model)
        alone.push(video, times(0, len(video)))
        assert session.boundaries == alone.boundaries
        assert session.num_frames == alone.num_frames == len(video)
        torch.testing.assert_close(session.visual_tokens().tokens, alone.visual_tokens().tokens, rtol=1e-5, atol=1e-5)
        assert session.ask(QUESTION, 6) == alone.ask(QUESTION, 6)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(
    "segmenter", [FixedLength(3), SceneTilling(alpha=0.0, max_segment_frames=4)], ids=["fixed", "scenes"]
)
def test_sessions_of_a_group_see_what_they_see_alone(
    folders: PartFolders, segmenter: FixedLength | SceneTilling, step: int
) -> None:
    model = build(folders, segmenter=segmenter)
    videos = [make_frames(count, seed=count) for count in (13, 5, 8)]
    group = SessionGroup(model)
    sessions = [group.open() for _ in videos]
    push_in_turns(group, sessions, videos, step)
    assert_as_alone(model, sessions, videos)


def test_sessions_with_windows_of_frames_see_what_they_see_alone(
    folders: PartFolders, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = languagebind_folders.write_folders(tmp_path_factory.mktemp("languagebind"))
    encoder: LanguageBindEncoder = languagebind_folders.build(folder)
    model = build(folders, encoder=lambda: encoder)
    videos = [languagebind_folders.random_frames(count, encoder.image_size) for count in (19, 11)]
    group = SessionGroup(model)
    sessions = [group.open() for _ in videos]
    push_in_turns(group, sessions, videos, 5)
    assert_as_alone(model, sessions, videos)


def test_the_encoder_is_called_once_for_all_sessions(folders: PartFolders) -> None:
    model, calls = build(folders), list[int]()
    group = SessionGroup(model)
    sessions = [group.open() for _ in range(4)]
    model.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    group.push([NextFrames(session, make_frames(2), times(0, 2)) for session in sessions])
    assert calls == [8]


def test_frames_that_are_refused_change_no_session(folders: PartFolders) -> None:
    group = SessionGroup(build(folders))
    one, other = group.open(), group.open()
    with pytest.raises(ValueError, match="resize and convert frames"):
        group.push([NextFrames(one, make_frames(2), times(0, 2)), NextFrames(other, make_frames(2)[..., 1:], [0, 1])])
    assert (one.num_frames, other.num_frames) == (0, 0)


def test_an_encoder_that_fails_changes_no_session(folders: PartFolders) -> None:
    model = build(folders)
    group = SessionGroup(model)
    one, other = group.open(), group.open()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = model.encoder.register_forward_pre_hook(fail)
    given = [NextFrames(session, make_frames(2), times(0, 2)) for session in (one, other)]
    with pytest.raises(RuntimeError, match="out of memory"):
        group.push(given)
    assert (one.num_frames, other.num_frames) == (0, 0)
    hook.remove()
    group.push(given)
    assert (one.num_frames, other.num_frames) == (2, 2)


def test_memory_of_one_session_does_not_hold_that_of_the_others(folders: PartFolders) -> None:
    group = SessionGroup(build(folders))
    alone, together = group.open(), [group.open() for _ in range(8)]
    group.push([NextFrames(alone, make_frames(6), times(0, 6))])
    group.push([NextFrames(session, make_frames(6), times(0, 6)) for session in together])
    assert [session.state_bytes for session in together] == [alone.state_bytes] * 8
    assert alone.state_bytes > 0


def test_a_session_twice_or_of_another_model_is_refused(folders: PartFolders) -> None:
    group, other = SessionGroup(build(folders)), SessionGroup(build(folders))
    session = group.open()
    with pytest.raises(ValueError, match="twice in one push"):
        group.push([NextFrames(session, make_frames(1), [0]), NextFrames(session, make_frames(1), [0])])
    with pytest.raises(ValueError, match="of another model"):
        group.push([NextFrames(other.open(), make_frames(1), [0])])
    group.push([])
    assert session.num_frames == 0


def test_a_model_that_cannot_stream_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="before the video has ended"):
        SessionGroup(build(folders, segmenter=Uniform(2)))
