"""A streamed video says at every moment what the frames so far say offline."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.iteration_loss import LiveTensorBytes
from components.bridges.layers.selective_update import SelectiveRecurrence
from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.encoders.languagebind import LanguageBindEncoder
from components.interfaces import FrameSelection, Segmenter, VisualReader, VisualTokens
from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.segmenters.uniform import Uniform
from components.selection.all_frames import AllFrames
from components.selection.linspace_frames import LinspaceFrames
from components.selection.pooled_frames import PooledFrames
from components.streaming import StreamingSession
from datamodules.batch import Batch, collate
from tests.components.encoders import languagebind_folders
from tests.fixtures_models import (
    PartFolders,
    make_bridge,
    make_frames,
    make_model,
    make_sample,
    open_gate,
)

NUM_FRAMES = 13
MILLISECONDS_A_FRAME = 1000  # as in make_sample
QUESTION = "which colour ?"


class CausalCuts(Segmenter):
    """The offline form of cutting where a segmenter's stream declares it."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Cut every video at the boundaries that a stream of its frames has declared by its end."""
        rows = []
        for video in cls.split(frame_counts.tolist()):
            stream = self.stream()
            for frame in video:
                stream.push(frame)
            starts = torch.zeros(len(video) + 1, dtype=torch.int64)
            starts[[boundary + 1 for boundary in stream.declared()]] = 1
            rows.append(starts[: len(video)].cumsum(0))
        return torch.cat(rows)

    def stream(self) -> Any:
        """The stream itself."""
        return self.segmenter.stream()


def make_selective_bridge(dim: int, out_dim: int) -> RecurrentMemoryBridge:
    """A bridge that admits about every other segment, as it finds them."""
    bridge = make_bridge(dim, out_dim, recurrence="selective", readout=CacheAndMemoryReadout)
    torch.nn.init.normal_(bridge.update.of_patch[-1].weight, std=40.0)
    torch.nn.init.constant_(bridge.update.of_memory.bias, -60.0)
    return bridge


def make_bounded_bridge(dim: int, out_dim: int) -> RecurrentMemoryBridge:
    """A bridge that admits every segment, with gates that differ, and holds two."""
    capacity = SelectiveRecurrence(capacity=2)
    bridge = make_bridge(dim, out_dim, recurrence=capacity, readout=CacheAndMemoryReadout)
    assert bridge.update is not None
    torch.nn.init.normal_(bridge.update.of_patch[-1].weight, std=40.0)  # type: ignore[arg-type]
    torch.nn.init.constant_(bridge.update.of_memory.bias, 500.0)
    return bridge


BRIDGES: dict[str, Callable[..., VisualReader[Any]]] = {
    "cache": make_bridge,
    "selective": make_selective_bridge,
    "bounded": make_bounded_bridge,
    "last segment": partial(make_bridge, readout=partial(LastSegmentReadout, with_memory=True)),
    "retrieved": partial(make_bridge, readout=RetrievedReadout),
    "mean pooling": MeanPooling,
    "published": partial(VideoLLaMBBridge, num_memory=3, num_heads=2, mlp_width=32),
}
SEGMENTERS: dict[str, Segmenter] = {
    "fixed length": FixedLength(4),
    "a frame each": FixedLength(1),
    "causal top-k": CausalCuts(SceneTilling(k=2, causal_alpha=0.0)),
    "causal threshold": CausalCuts(SceneTilling(alpha=0.0, max_segment_frames=4)),
}


def build(folders: PartFolders, bridge: str = "cache", **changes: Any) -> VideoLanguageModel:
    model = make_model(folders, bridge=BRIDGES[bridge], **changes)
    if hasattr(model.bridge, "gate"):
        open_gate(model.bridge)
    return model


def times(first: int, count: int) -> list[int]:
    return [MILLISECONDS_A_FRAME * (first + place) for place in range(count)]


def asked_offline(folders: PartFolders, frames: Tensor) -> Batch:
    return collate([make_sample(folders, "so far", frames, [[(QUESTION, "red")]])])


def seen_offline(model: VideoLanguageModel, folders: PartFolders, frames: Tensor) -> VisualTokens:
    with torch.no_grad():
        return model.visual_tokens(asked_offline(folders, frames))


def seen_now(session: StreamingSession) -> VisualTokens:
    return session.visual_tokens(session.model.language_model.prompts([QUESTION]))


def assert_same(one: VisualTokens, other: VisualTokens) -> None:
    torch.testing.assert_close(one.tokens[one.mask], other.tokens[other.mask], rtol=1e-5, atol=1e-5)


def assert_equal_at_every_moment(model: VideoLanguageModel, folders: PartFolders, frames: Tensor) -> StreamingSession:
    session = StreamingSession(model)
    for place in range(len(frames)):
        session.push(frames[place : place + 1], times(place, 1))
        assert_same(seen_now(session), seen_offline(model, folders, frames[: place + 1]))
    return session


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_every_moment_equals_offline(folders: PartFolders, bridge: str, segmenter: str) -> None:
    model = build(folders, bridge, segmenter=SEGMENTERS[segmenter])
    session = assert_equal_at_every_moment(model, folders, make_frames(NUM_FRAMES, seed=4))
    assert session.num_frames == NUM_FRAMES
    assert len(session.boundaries) > 1


@pytest.mark.parametrize(
    "selection", [AllFrames(), LinspaceFrames(2), PooledFrames(2)], ids=["all", "linspace", "pooled"]
)
def test_every_moment_equals_offline_with_every_frame_selection(
    folders: PartFolders, selection: FrameSelection
) -> None:
    model = build(folders, segmenter=FixedLength(5), frame_selection=selection)
    assert_equal_at_every_moment(model, folders, make_frames(NUM_FRAMES))


def test_fixed_length_declares_the_offline_boundaries(folders: PartFolders) -> None:
    session = StreamingSession(build(folders, segmenter=FixedLength(4)))
    session.push(make_frames(NUM_FRAMES), times(0, NUM_FRAMES))
    assert session.boundaries == [3, 7, 11]


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize("chunks", [[13], [5, 8], [1, 0, 7, 2, 3]])
def test_frames_may_come_in_any_chunks(folders: PartFolders, bridge: str, chunks: list[int]) -> None:
    model = build(folders, bridge, segmenter=SEGMENTERS["causal threshold"])
    frames = make_frames(NUM_FRAMES, seed=4)
    session = StreamingSession(model)
    for place, chunk in zip(torch.tensor([0, *chunks]).cumsum(0).tolist(), chunks, strict=False):
        session.push(frames[place : place + chunk], torch.tensor(times(place, chunk), dtype=torch.int64))
    assert_same(seen_now(session), seen_offline(model, folders, frames))


def test_several_questions_get_the_answers_that_they_get_alone(folders: PartFolders) -> None:
    session = StreamingSession(build(folders, segmenter=FixedLength(3)))
    session.push(make_frames(8, seed=1), times(0, 8))
    questions = [QUESTION, "which shape ?", "how many ?"]
    answers = session.ask_all(questions, 12)
    assert len(set(answers)) > 1
    assert answers == [session.ask(question, 12) for question in questions]


def test_answers_equal_offline_at_every_moment_and_looking_changes_nothing(folders: PartFolders) -> None:
    model = build(folders, segmenter=FixedLength(3))
    frames = make_frames(8, seed=1)
    asked, silent = StreamingSession(model), StreamingSession(model)
    for place in range(len(frames)):
        for session in (asked, silent):
            session.push(frames[place : place + 1], times(place, 1))
        for _ in range(2):
            answer = asked.ask(QUESTION, max_new_tokens=4)
            assert [answer] == model.generate(asked_offline(folders, frames[: place + 1]), max_new_tokens=4)
    assert torch.equal(asked.visual_tokens().tokens, silent.visual_tokens().tokens)


def test_sessions_of_one_model_do_not_meet(folders: PartFolders) -> None:
    model = build(folders)
    videos = [make_frames(5, seed=seed) for seed in (1, 2)]
    sessions = [StreamingSession(model) for _ in videos]
    for place in range(5):
        for session, frames in zip(sessions, videos, strict=True):
            session.push(frames[place : place + 1], times(place, 1))
    for session, frames in zip(sessions, videos, strict=True):
        assert_same(seen_now(session), seen_offline(model, folders, frames))


@pytest.fixture(scope="module")
def languagebind(tmp_path_factory: pytest.TempPathFactory) -> LanguageBindEncoder:
    return languagebind_folders.build(languagebind_folders.write_folders(tmp_path_factory.mktemp("languagebind")))


@pytest.mark.parametrize("segmenter", ["fixed length", "causal threshold"])
def test_encoder_with_windows_of_frames_equals_offline_at_every_moment(
    folders: PartFolders, languagebind: LanguageBindEncoder, segmenter: str
) -> None:
    model = build(folders, encoder=lambda: languagebind, segmenter=SEGMENTERS[segmenter])
    frames = languagebind_folders.random_frames(19, languagebind.image_size)
    session = assert_equal_at_every_moment(model, folders, frames)  # the first moment is an image, the ninth no longer
    assert max(session.boundaries) < 16  # the last window is not full, so nothing in it is settled
    at_once = StreamingSession(model)
    at_once.push(frames, times(0, 19))
    assert at_once.boundaries == session.boundaries
    assert_same(seen_now(at_once), seen_now(session))


def live_bytes_after(session: StreamingSession, counts: list[int]) -> list[int]:
    """Bytes that the session holds after it has seen so many frames."""
    bytes_held = []
    with LiveTensorBytes() as live:
        for place in range(max(counts)):
            session.push(make_frames(1, seed=place), times(place, 1))
            if place + 1 in counts:
                bytes_held.append(live.now)
    return bytes_held


def test_memory_does_not_grow_with_the_video(folders: PartFolders) -> None:
    session = StreamingSession(build(folders, "mean pooling", segmenter=FixedLength(4)))
    early, late = live_bytes_after(session, [10, 90])
    assert late == early > 0


def test_memory_grows_by_the_cached_memory_tokens_alone(folders: PartFolders) -> None:
    session = StreamingSession(build(folders, "cache", segmenter=FixedLength(4)))
    early, late = live_bytes_after(session, [12, 92])
    memory_tokens = 3 * 16 * 4  # tokens, width, bytes
    mask_and_time = 1 + 8
    assert late - early == (92 - 12) // 4 * (memory_tokens + mask_and_time)


def test_segments_that_are_not_admitted_take_no_memory(folders: PartFolders) -> None:
    model = build(folders, "selective", segmenter=FixedLength(4))
    admitted = []
    model.bridge.register_forward_hook(lambda _, __, state: admitted.append(bool(state.admitted[-1])))
    session = StreamingSession(model)
    early, late = live_bytes_after(session, [12, 92])
    counts = [sum(admitted[: frames // 4]) for frames in (12, 92)]
    assert 1 <= counts[0] < counts[1] < 92 // 4 - 1
    a_segment = 3 * 16 * 4 + 1 + 8 + 4  # memory tokens, mask, time, weight
    assert late - early == (counts[1] - counts[0]) * a_segment


def test_segmenters_say_whether_they_can_stream() -> None:
    streams = {type(part).__name__: part.stream() for part in (FixedLength(2), SceneTilling(k=1), Uniform(2))}
    assert [name for name, stream in streams.items() if stream is not None] == ["FixedLength", "SceneTilling"]
