"""Answers about a video while it plays, with the same parts and the same numbers as offline.

Time: every frame is encoded once and every segment is read once, when it closes. A question reads the open segment
again. Memory: the features of the open segment (``max_segment_frames`` of SceneTilling bounds it), the frames of two
windows of the encoder, and the bridge's state (a cache grows by M tokens for each segment that is admitted, up to the
capacity of a selective memory that has one).
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.interfaces import TEXT_ONLY, FrameFeatures, SegmenterStream, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from components.state_memory import tensor_bytes, without_spare_memory
from components.streams import StreamState
from components.window_encoder import EncodedFrames, WaitingFrames, WindowEncoder, encode_full_windows


class StreamingSession:
    """Takes one video frame by frame and answers questions at any moment.

    The answer after t frames is the model's offline answer about a video of these t frames, cut at the boundaries that
    the segmenter's stream has declared so far. With ``FixedLength`` those are the offline boundaries; with
    ``SceneTilling`` they follow its causal rule (see ``SceneTillingStream``). A question changes nothing: the open
    segment is read as if it closed now, and stays open.

    If frames of the encoder attend to each other within windows, a window is encoded when it is full. A question before
    that encodes the newest frames as the short last window of a video; they are encoded again when the window is full.
    So boundaries may be declared up to one window later.

    Args:
        model: A model in evaluation mode, on any device. The session does not change it; several may share one.

    Raises:
        ValueError: The model is in training mode, where dropout changes answers; its segmenter or its
            frame_resampling needs to know the length of the video; or its encoder needs the complete video.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        if model.training:
            raise ValueError("the model is in training mode, which drops features at random; call model.eval() first")
        if model.frame_resampling is not None:
            raise ValueError(
                f"{type(model.frame_resampling).__name__} chooses frames by the complete video; stream "
                "with a model whose frame_resampling is null"
            )
        stream = model.segmenter.stream()
        if stream is None:
            raise ValueError(
                f"{type(model.segmenter).__name__} knows no boundary before the video has ended; stream with "
                "FixedLength or SceneTilling"
            )
        self.model = model
        self._device = next(model.parameters()).device
        self._example = model.encoder.dummy_frames("cpu")
        self._windows = WindowEncoder(model)
        self._walk = _Walk(model, stream)
        self._num_frames = 0
        self._last_ms: int | None = None

    @property
    def num_frames(self) -> int:
        """Frames so far."""
        return self._num_frames

    @property
    def last_ms(self) -> int | None:
        """Time of the newest frame in the video; None before the first."""
        return self._last_ms

    @property
    def boundaries(self) -> list[int]:
        """Last frame of every closed segment, ascending; only grows."""
        return list(self._walk.boundaries)

    @property
    def state_bytes(self) -> int:
        """Bytes that the readers' states after the closed segments hold."""
        return tensor_bytes(self._walk.states)

    def push(self, frames: Tensor, frame_ms: Tensor | Sequence[int]) -> None:
        """Take the next frames. How many come at once changes no result, only the speed.

        After frames that are refused, or that the encoder fails on, the session is as it was before. If the bridge
        fails, for example because memory runs out, the frames are taken, and the next call reads the closed segments.

        Args:
            frames: One or more frames in the form that the model's encoder reads, such as uint8 ``[T, 3, H, W]``.
            frame_ms: Time of every frame in the video, ``[T]`` integer milliseconds, not decreasing.

        Raises:
            ValueError: There is not exactly one time for each frame, times decrease, or the frames do not have the
                size and dtype that the encoder reads.
        """
        push_together([NextFrames(self, frames, frame_ms)])

    @torch.no_grad()
    def visual_tokens(self, text: TextInputs | None = None) -> VisualTokens:
        """What the language model sees now, as if the video ended here.

        Args:
            text: The conversations that will be answered (``video_index`` 0); only readers of questions need
                them. ``model.language_model.prompts([...])`` makes them from plain questions.

        Returns:
            Visual tokens of the one video, or of every conversation.

        Raises:
            ValueError: No frame has been pushed yet, a reader reads questions and there are none, or a conversation is
                about another video: a session shows one.
        """
        if self._num_frames == 0:
            raise ValueError("no frame has been pushed yet, so there is nothing to see")
        if text is not None and bool((text.video_index > 0).any() or (text.video_index[:, 1:] != TEXT_ONLY).any()):
            raise ValueError(
                "a session shows one video, but a conversation is about several: give all of them to "
                "VideoLanguageModel.generate in one batch"
            )
        if text is None and self.model.reads_questions:
            raise ValueError(
                "this model reads its memory for a question; give visual_tokens() the text, such as "
                "model.language_model.prompts(['...'])"
            )
        walk = self._walk
        rest = self._windows.encode_rest()
        if rest is not None:
            walk = walk.fork()
            walk.take(rest)
        return self.model.read(walk.states_now(), text)

    def ask(self, question: str, max_new_tokens: int = 64) -> str:
        """Answer a question about what was shown so far, greedily; see ``ask_all``."""
        [answer] = self.ask_all([question], max_new_tokens)
        return answer

    def ask_all(self, questions: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Answer several questions about what was shown so far, greedily, each by itself.

        The video is read once, and the language model reads once what their prompts have in common.

        Args:
            questions: Plain text; see ``LanguageModel.prompts``.
            max_new_tokens: Longest answer.

        Raises:
            ValueError: No frame has been pushed yet.
        """
        text = self.model.language_model.prompts(questions)
        return self.model.language_model.generate(self.visual_tokens(text), text, max_new_tokens)

    def checked(self, frames: Tensor, frame_ms: Tensor | Sequence[int]) -> WaitingFrames:
        """Check the next frames, and join them to those that wait to be encoded. Changes nothing; see ``push``."""
        times = torch.as_tensor(frame_ms)
        if times.shape != frames.shape[:1] or times.is_floating_point():
            raise ValueError(
                f"push expects one integer time (ms) a frame, got frames {list(frames.shape)} and {times.dtype} times "
                f"{list(times.shape)}; a single frame is frame[None] with [its time]"
            )
        before = times[:1] if self._last_ms is None else times.new_tensor([self._last_ms])
        if bool((torch.cat([before, times]).diff() < 0).any()):
            raise ValueError(f"frame times must not decrease, got {times.tolist()} after {self._last_ms}")
        self._refuse_other_form(frames)
        return self._windows.waiting_with(frames.to(self._device), times.to(self._device, torch.int64))

    def take(self, num_new: int, waiting: WaitingFrames, encoded: EncodedFrames | None) -> None:
        """Take frames that were ``checked``, whose full windows have been encoded.

        Args:
            num_new: Frames that the session has not had before.
            waiting: What ``checked`` returned.
            encoded: Features of the full windows; None if no window is full.
        """
        self._windows.encoded(waiting)
        self._num_frames += num_new
        self._last_ms = int(waiting.frame_ms[-1])
        if encoded is not None:
            self._walk.take(encoded)

    def _refuse_other_form(self, frames: Tensor) -> None:
        """Refuse now what the encoder would refuse later, when the window of these frames is full."""
        example = self._example
        # Cached features may have any float dtype; an encoder of pixels reads one integer dtype.
        kinds = [each.dtype.is_floating_point or each.dtype for each in (frames, example)]
        if frames.shape[1:] != example.shape[1:] or kinds[0] != kinds[1]:
            raise ValueError(
                f"{type(self.model.encoder).__name__} reads {example.dtype} frames "
                f"[T, {', '.join(map(str, example.shape[1:]))}], got {frames.dtype} {list(frames.shape)}: resize and "
                "convert frames before they are pushed"
            )


class NextFrames(NamedTuple):
    """Frames for a session, see ``StreamingSession.push``."""

    session: StreamingSession
    frames: Tensor
    frame_ms: Tensor | Sequence[int]


@torch.no_grad()
def push_together(given: Sequence[NextFrames]) -> None:
    """Give frames to several sessions of one model; the encoder reads all of them in one call.

    All frames are checked before any session changes. Should the bridge fail for one session, the sessions after it
    have not taken their frames.

    Args:
        given: Frames for each session, which is there once.

    Raises:
        ValueError: See ``StreamingSession.push``.
    """
    given = [each for each in given if len(each.frames) or len(each.frame_ms)]
    if not given:
        return
    waiting = [each.session.checked(each.frames, each.frame_ms) for each in given]
    encoded = encode_full_windows(given[0].session.model, waiting)
    for each, own, features in zip(given, waiting, encoded, strict=True):
        each.session.take(len(each.frame_ms), own, features)


class _Walk:
    """Reads the segments as they close.

    Args:
        model: Its readers and frame selections are used.
        stream: Declares the boundaries.

    Attributes:
        boundaries: Last frame of every closed segment.
        states: States of all readers after them; None before the first.
    """

    def __init__(self, model: VideoLanguageModel, stream: SegmenterStream) -> None:
        self.boundaries: list[int] = []
        self._model = model
        self._stream = stream
        self.states: dict[str, StreamState] | None = None
        self._open: list[EncodedFrames] = []

    def fork(self) -> "_Walk":
        """A copy that goes on from here and leaves this one as it is."""
        walk = copy.copy(self)  # states and the list of open frames are replaced, never changed
        walk._stream = copy.deepcopy(self._stream)
        walk.boundaries = list(self.boundaries)
        return walk

    def take(self, encoded: EncodedFrames) -> None:
        """Take the next frames and read the segments that they close."""
        for cls in encoded.features.cls.cpu():  # once: a stream compares frame by frame
            self._stream.push(cls)
        self._open = [*self._open, encoded]
        self._read_closed()

    def states_now(self) -> dict[str, StreamState]:
        """States of all readers as if the open segment closed now."""
        self._read_closed()
        if not self._open:
            assert self.states is not None  # some frame has been taken
            return self.states
        frames = self._joined()
        return self._read(frames, torch.tensor([len(frames.frame_ms)]))

    def _read_closed(self) -> None:
        """Read the segments that are declared and not read yet."""
        declared = self._stream.declared(len(self.boundaries))
        if not declared:
            return
        before = self.boundaries[-1] if self.boundaries else -1
        num_closed = declared[-1] - before
        frames = self._joined()
        states = self._read(frames.part(slice(num_closed)), torch.tensor([before, *declared]).diff())
        readers = self._model.readers
        pruned = {name: state._replace(reader=readers[name].prune(state.reader)) for name, state in states.items()}
        previous = self.states or {}
        self.states = {name: without_spare_memory(state, previous.get(name)) for name, state in pruned.items()}
        rest = frames.part(slice(num_closed, None))
        # Copied: a view would hold the memory of all.
        self._open = [tree_map_only(Tensor, Tensor.clone, rest)] if len(rest.frame_ms) else []
        self.boundaries.extend(declared)

    def _joined(self) -> EncodedFrames:
        features = FrameFeatures.joined([each.features for each in self._open])
        return EncodedFrames(features, torch.cat([each.frame_ms for each in self._open]))

    def _read(self, frames: EncodedFrames, lengths: Tensor) -> dict[str, StreamState]:
        """States after segments of these lengths ``[S]``, which hold all the frames."""
        segment_index = torch.arange(len(lengths)).repeat_interleave(lengths)
        count = torch.tensor([len(segment_index)])
        frames_before = self.boundaries[-1] + 1 if self.boundaries else 0
        segments = self._model.group_frames(segment_index, count, len(lengths), frames_before)
        last = [len(lengths) - 1]
        [states] = self._model.run_segments(frames.features, frames.frame_ms, segments, self.states, last)
        return states
