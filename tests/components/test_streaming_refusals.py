"""What a streaming session refuses; frames that it refuses, or fails on, leave it as it was."""

from functools import partial

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.encoders.cached import CachedFeatures
from components.encoders.languagebind import LanguageBindEncoder
from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.segmenters.uniform import Uniform
from components.streaming import StreamingSession
from tests.components.encoders import languagebind_folders
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_bridge, make_frames, make_model, open_gate

QUESTION = "which colour ?"


def build(folders: PartFolders, **changes: object) -> VideoLanguageModel:
    model = make_model(folders, **changes)
    open_gate(model.bridge)
    return model


def times(first: int, count: int) -> list[int]:
    return [1000 * (first + place) for place in range(count)]


def seen_now(session: StreamingSession) -> Tensor:
    visual = session.visual_tokens()
    return visual.tokens[visual.mask]


def assert_go_on_alike(session: StreamingSession, untouched: StreamingSession, frames: Tensor, first: int) -> None:
    """The same frames, one at a time, lead both to the same; the second never saw what the first refused."""
    assert session.num_frames == untouched.num_frames
    for place in range(len(frames)):
        for each in (session, untouched):
            each.push(frames[place : place + 1], times(first + place, 1))
        assert torch.equal(seen_now(session), seen_now(untouched))
        assert session.boundaries == untouched.boundaries
    assert session.num_frames == untouched.num_frames == first + len(frames)


BAD_FRAMES = {
    "another size": torch.zeros(1, 3, IMAGE_SIZE + 1, IMAGE_SIZE, dtype=torch.uint8),
    "another dtype": torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE),
    "another integer": torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.int64),
    "no channels": torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8),
}


@pytest.mark.parametrize("bad", BAD_FRAMES)
@pytest.mark.parametrize("num_before", [0, 3])
def test_refused_frame_leaves_the_session_as_it_was(folders: PartFolders, bad: str, num_before: int) -> None:
    model = build(folders, segmenter=FixedLength(2))
    session, untouched = StreamingSession(model), StreamingSession(model)
    frames = make_frames(6, seed=2)
    assert_go_on_alike(session, untouched, frames[:num_before], 0)
    with pytest.raises(ValueError, match=r"reads torch.uint8 frames \[T, 3, 28, 28\], got .* before they are pushed"):
        session.push(BAD_FRAMES[bad], [50_000])  # later than what comes next
    assert_go_on_alike(session, untouched, frames[num_before:], num_before)


def test_asking_after_nothing_but_a_refused_frame_says_that_no_frame_has_come(folders: PartFolders) -> None:
    session = StreamingSession(build(folders))
    with pytest.raises(ValueError, match="before they are pushed"):
        session.push(BAD_FRAMES["another size"], [5000])
    with pytest.raises(ValueError, match="no frame has been pushed yet"):
        session.ask(QUESTION)


@pytest.mark.parametrize("videos", [[1], [0, 1], [0, 0]])
def test_a_conversation_about_more_than_the_one_video_is_refused(folders: PartFolders, videos: list[int]) -> None:
    session = StreamingSession(build(folders))
    session.push(make_frames(3), times(0, 3))
    text = session.model.language_model.prompts([QUESTION])._replace(video_index=torch.tensor([videos]))
    with pytest.raises(ValueError, match="a session shows one video, but a conversation is about several"):
        session.visual_tokens(text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cached_features_of_any_float_dtype_are_taken_and_pixels_are_not(
    folders: PartFolders, dtype: torch.dtype
) -> None:
    session = StreamingSession(build(folders, encoder=lambda: CachedFeatures(32, 4)))
    session.push(torch.ones(2, 5, 32, dtype=dtype), [0, 40])
    with pytest.raises(ValueError, match=r"CachedFeatures reads torch.float32 frames \[T, 5, 32\], got torch.uint8"):
        session.push(torch.ones(1, 5, 32, dtype=torch.uint8), [80])
    assert session.num_frames == 2


@pytest.fixture(scope="module")
def languagebind(tmp_path_factory: pytest.TempPathFactory) -> LanguageBindEncoder:
    return languagebind_folders.build(languagebind_folders.write_folders(tmp_path_factory.mktemp("languagebind")))


def test_frames_of_a_wrong_dtype_are_refused_before_their_window_is_full(
    folders: PartFolders, languagebind: LanguageBindEncoder
) -> None:
    model = build(folders, encoder=lambda: languagebind, segmenter=FixedLength(3))
    session, untouched = StreamingSession(model), StreamingSession(model)
    frames = languagebind_folders.random_frames(10, languagebind.image_size)
    for place in range(7):
        with pytest.raises(ValueError, match=r"reads torch\.uint8 frames"):
            session.push(frames[place : place + 1].float(), times(place, 1))
    assert_go_on_alike(session, untouched, frames, 0)


def fail_once(module: torch.nn.Module) -> None:
    """Let the next call of a part fail as a device does that is out of memory."""

    def fail(_module: torch.nn.Module, _inputs: object) -> None:
        handle.remove()
        raise RuntimeError("out of memory")

    handle = module.register_forward_pre_hook(fail)


def test_frames_that_the_encoder_fails_on_may_be_pushed_again(
    folders: PartFolders, languagebind: LanguageBindEncoder
) -> None:
    model = build(folders, encoder=lambda: languagebind, segmenter=FixedLength(3))
    session, untouched = StreamingSession(model), StreamingSession(model)
    frames = languagebind_folders.random_frames(10, languagebind.image_size)
    assert_go_on_alike(session, untouched, frames[:7], 0)
    fail_once(model.encoder)
    with pytest.raises(RuntimeError, match="out of memory"):
        session.push(frames[7:8], times(7, 1))
    assert_go_on_alike(session, untouched, frames[7:], 7)


@pytest.mark.parametrize("segmenter", [FixedLength(2), SceneTilling(k=1, max_segment_frames=2)])
def test_segment_that_the_bridge_fails_on_is_read_by_the_next_call(
    folders: PartFolders, segmenter: FixedLength | SceneTilling
) -> None:
    model = build(folders, segmenter=segmenter)
    session, untouched = StreamingSession(model), StreamingSession(model)
    frames = make_frames(6, seed=2)
    for each in (session, untouched):
        each.push(frames[:1], times(0, 1))
    untouched.push(frames[1:4], times(1, 3))
    fail_once(model.bridge)
    with pytest.raises(RuntimeError, match="out of memory"):
        session.push(frames[1:4], times(1, 3))
    assert torch.equal(seen_now(session), seen_now(untouched))
    assert_go_on_alike(session, untouched, frames[4:], 4)


def test_segmenter_that_needs_the_whole_video_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="Uniform knows no boundary before the video has ended"):
        StreamingSession(build(folders, segmenter=Uniform(3)))


def test_encoder_that_needs_the_whole_video_is_refused(folders: PartFolders) -> None:
    model = build(folders)
    model.encoder.window_frames = None
    with pytest.raises(ValueError, match="cannot encode one that still plays"):
        StreamingSession(model)


def test_training_mode_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        StreamingSession(build(folders).train())


def test_looking_before_the_first_frame_is_refused(folders: PartFolders) -> None:
    session = StreamingSession(build(folders))
    session.push(make_frames(0), [])
    with pytest.raises(ValueError, match="no frame has been pushed yet"):
        session.ask(QUESTION)


def test_looking_without_a_question_is_refused_where_the_bridge_reads_it(folders: PartFolders) -> None:
    session = StreamingSession(build(folders, bridge=partial(make_bridge, readout=RetrievedReadout)))
    session.push(make_frames(1), [0])
    with pytest.raises(ValueError, match="give visual_tokens"):
        session.visual_tokens()


@pytest.mark.parametrize(
    ("frame_ms", "message"),
    [
        ([0], "one integer time"),
        (torch.tensor([0.0, 1.0]), "one integer time"),
        ([2000, 1000], "must not decrease"),
        ([400, 1000], "must not decrease, got .* after 500"),
    ],
)
def test_times_that_do_not_fit_are_refused_and_leave_the_session_as_it_was(
    folders: PartFolders, frame_ms: list[int] | Tensor, message: str
) -> None:
    session = StreamingSession(build(folders))
    session.push(make_frames(1), [500])
    with pytest.raises(ValueError, match=message):
        session.push(make_frames(2), frame_ms)
    assert session.num_frames == 1
    session.push(make_frames(2), [500, 600])
