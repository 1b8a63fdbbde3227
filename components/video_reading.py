"""The model up to the language model: encodes videos, cuts them into segments, and lets every reader read them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import (
    FrameEncoder,
    FrameFeatures,
    FrameResampling,
    FrameScorer,
    PatchPooling,
    PictureLayout,
    Projector,
    Segmenter,
    Segments,
    VideoTextBatch,
    VisualReader,
)
from components.newline import Newline
from components.packed_frames import PackedVideos
from components.patches import ReadFrames, reduced_patches, without_unread_frames
from components.pictures.shown_pictures import PictureTokens, check_layout, picture_tokens
from components.selection.all_frames import AllFrames
from components.selection.frame_choice import check_frame_choice
from components.selection.gather import group_frames, num_segments_of, segment_inputs
from components.streams import StreamReader, StreamState, dtype_of, readers_by_stream, run_stream
from components.watched_frames import KnownFrames, WatchedFrames, segments_of_frames, watched_frames


class EncodedVideos(NamedTuple):
    """Videos and what the encoder gave of them."""

    videos: PackedVideos
    features: FrameFeatures


class VideosRead(NamedTuple):
    """What became of a batch's videos."""

    segments: dict[str, Segments]  # what each reader has read
    states: dict[int, dict[str, StreamState]]  # of all streams after some of the S steps
    pictures: PictureTokens | None  # None: the model reads pictures as videos of one frame

    @property
    def last(self) -> dict[str, StreamState]:
        """The states of all streams after the last step."""
        return self.states[max(self.states)]


class AskedMedia(NamedTuple):
    """What the conversations of a batch ask, for a model that chooses frames by it."""

    questions: Sequence[str]  # words of every conversation's question
    video_index: Tensor  # [C, M], see ``TextInputs``


class _ReducedVideos(NamedTuple):
    """What the readers read of a batch's videos, and its pictures."""

    frames: ReadFrames
    segments: dict[str, Segments]  # before frames that no reader reads were left out
    pictures: PictureTokens | None


class VideoReading(nn.Module):
    """The parts that read videos. ``VideoLanguageModel`` explains its arguments."""

    bridge: VisualReader[Any]

    def __init__(
        self,
        encoder: FrameEncoder,
        projector: Projector | None,
        patch_pooling: PatchPooling | None,
        newline: Newline | None,
        picture_layout: PictureLayout | None,
        frame_resampling: FrameResampling | None,
        frame_scorer: FrameScorer | None,
        segmenter: Segmenter,
        readers: StreamReader | Mapping[str, StreamReader],
        agree_on_maximum: Callable[[int], int],
    ) -> None:
        super().__init__()
        is_single = isinstance(readers, StreamReader)
        named = readers_by_stream(readers)
        if picture_layout is not None:
            check_layout(picture_layout, encoder)
        check_frame_choice(frame_resampling, frame_scorer, encoder, picture_layout)
        self.encoder = encoder
        self.frame_scorer = frame_scorer
        self.frame_resampling = frame_resampling
        self.segmenter = segmenter
        self.projector = projector
        self.patch_pooling = patch_pooling
        self.newline = newline
        self.picture_layout = picture_layout
        self._part_names = {name: "bridge" if is_single else name for name in named}
        for name, part in self._part_names.items():
            self.add_module(part, named[name].reader)
        self.frame_selections = {name: each.frame_selection or AllFrames() for name, each in named.items()}
        reducers = {name: each.reducer for name, each in named.items() if each.reducer is not None}
        self.reducers = nn.ModuleDict(reducers) if reducers else None
        self.agree_on_maximum = agree_on_maximum

    @property
    def readers(self) -> dict[str, VisualReader[Any]]:
        """The readers by the names of their streams."""
        return {name: self.get_submodule(part) for name, part in self._part_names.items()}  # type: ignore[misc]

    @property
    def reader_parts(self) -> dict[str, VisualReader[Any]]:
        """The readers by their names as parts of the model, as in its parameters and the settings of a run."""
        return {part: self.readers[name] for name, part in self._part_names.items()}

    @property
    def reads_questions(self) -> bool:
        """Whether what the language model sees of a video depends on the question."""
        return any(reader.reads_questions for reader in self.readers.values())

    def packed_videos(self, batch: VideoTextBatch) -> PackedVideos:
        """The batch's videos, or one dummy frame that no conversation refers to."""
        if batch.frame_counts.numel():
            return PackedVideos(batch.frames, batch.frame_counts.cpu(), batch.frame_ms, batch.picture_sizes.cpu())
        frames = self.encoder.dummy_frames(batch.frames.device)
        one = torch.ones(1, dtype=torch.int64)
        return PackedVideos(frames, one, torch.zeros_like(one, device=frames.device), torch.zeros(1, 2).long())

    def read_videos(
        self,
        videos: PackedVideos,
        steps: Callable[[int], Collection[int]] = range,
        asked: AskedMedia | None = None,
    ) -> VideosRead:
        """Encode the videos, cut them into segments, and let every reader read them.

        Args:
            videos: The packed frames.
            steps: Gives, for the number of segments S, the steps whose states are returned, besides the last. States
                of other steps are freed, with what their graphs hold.
            asked: What the conversations ask. A model with a ``frame_scorer`` needs it, and reads a row for every
                medium of every conversation in place of every video.

        Raises:
            ValueError: A picture is in tiles, and the model has no ``picture_layout``; or frames are chosen by the
                question, and there is none.
        """
        return self._read_reduced(self._reduced(self.encode(videos), asked), steps)

    def read_encoded(
        self,
        encoded: EncodedVideos,
        steps: Callable[[int], Collection[int]] = range,
        asked: AskedMedia | None = None,
    ) -> VideosRead:
        """What ``read_videos`` does after encoding, for videos of which other questions ask other frames."""
        return self._read_reduced(self._reduced(encoded, asked), steps)

    def encode(self, videos: PackedVideos) -> EncodedVideos:
        """Run the encoder.

        Raises:
            ValueError: A picture is in tiles, and the model has no ``picture_layout``.
        """
        self._refuse_tiles_without_layout(videos)
        return EncodedVideos(videos, self.encoder(videos.frames, videos.frame_counts))

    def _read_reduced(self, reduced: _ReducedVideos, steps: Callable[[int], Collection[int]]) -> VideosRead:
        frames, segments, pictures = reduced
        num_segments = next(iter(segments.values())).frame_mask.shape[1]  # every reader has the same segments
        returned = sorted({*steps(num_segments), num_segments - 1})
        states = self.run_segments(frames.features, frames.frame_ms, frames.segments, steps=returned)
        return VideosRead(segments, dict(zip(returned, states, strict=True)), pictures)

    def _reduced(self, encoded: EncodedVideos, asked: AskedMedia | None) -> _ReducedVideos:
        """Cut, project and pool. The caller keeps no encoder's patches, which are many more, beside the result."""
        videos, features = encoded
        scores = self.frame_scores(features, asked)
        watched = self.watched_frames(videos, features, scores, None if asked is None else asked.video_index)
        pictures = self._pictures(features, videos)
        segments = self.segment(features, videos.frame_counts, watched)
        read = ReadFrames(features, videos.frame_ms, segments)
        if self.projector is not None or self.patch_pooling is not None:
            read = without_unread_frames(read)
        return _ReducedVideos(read._replace(features=self.reduce_patches(read.features)), segments, pictures)

    def frame_scores(self, features: FrameFeatures, asked: AskedMedia | None) -> Tensor | None:
        """How well every packed frame fits every question, ``[C, F]``; None without a ``frame_scorer``.

        Raises:
            ValueError: Frames are chosen by the question, and there is none.
        """
        if self.frame_scorer is None:
            return None
        if asked is None:
            raise ValueError(
                f"this model chooses frames by the question ({type(self.frame_scorer).__name__}), so a video cannot be "
                "read without one: ask about the video, or take a model whose frame_scorer is null"
            )
        scores: Tensor = self.frame_scorer(features.joint, asked.questions)
        return scores

    def watched_frames(
        self,
        videos: PackedVideos,
        features: FrameFeatures,
        scores: Tensor | None = None,
        video_index: Tensor | None = None,
    ) -> WatchedFrames | None:
        """Which frames are cut into segments; None for all, each once.

        Args:
            videos: The packed videos.
            features: Their features.
            scores: What ``frame_scores`` gives.
            video_index: See ``TextInputs``; needed with ``scores``.
        """
        resampling = self.frame_resampling
        if resampling is None or not (resampling.reads_features or resampling.reads_scores):
            return watched_frames(videos, resampling)
        described = features.cls if features.joint is None else features.joint
        known = KnownFrames(described.detach().float().cpu() if resampling.reads_features else None)
        if scores is None or video_index is None:
            return watched_frames(videos, resampling, known)
        of_rows = scores.detach().float().cpu().repeat_interleave(video_index.shape[1], dim=0)  # [C * M, F]
        # A row without a medium reads the first video, and nobody sees it.
        rows = known._replace(scores=of_rows, videos=video_index.clamp(min=0).flatten())
        return watched_frames(videos, resampling, rows)

    def _refuse_tiles_without_layout(self, videos: PackedVideos) -> None:
        if self.picture_layout is None and bool((videos.picture_sizes > 0).any()):
            raise ValueError(
                "a picture was cut into tiles, but the model has no picture_layout to show them: set "
                "model.picture_layout, or data.pixels.tiles to null"
            )

    def reduce_patches(self, features: FrameFeatures) -> FrameFeatures:
        """Project and pool the patches of frames, in the dtype in which they are read."""
        dtype = dtype_of(next(iter(self.readers.values())), features.patches)
        return reduced_patches(features, self.projector, self.patch_pooling, dtype)

    def segment(
        self, features: FrameFeatures, frame_counts: Tensor, watched: WatchedFrames | None = None
    ) -> dict[str, Segments]:
        """Cut the videos into segments, padded to the largest number of segments on any rank.

        Returns:
            What each reader reads of them.
        """
        counts = frame_counts if watched is None else watched.frame_counts
        segment_index = segments_of_frames(self.segmenter, features, frame_counts, watched)
        num_segments = self.agree_on_maximum(num_segments_of(segment_index, counts))
        segments = self.group_frames(segment_index, counts, num_segments)
        return segments if watched is None else {name: watched.located(each) for name, each in segments.items()}

    def group_frames(
        self, segment_index: Tensor, frame_counts: Tensor, num_segments: int, frames_before: int = 0
    ) -> dict[str, Segments]:
        """What each reader reads of segments that are known; see ``selection.gather.group_frames``."""
        return {
            name: group_frames(segment_index, frame_counts, num_segments, selection, frames_before)
            for name, selection in self.frame_selections.items()
        }

    def run_segments(
        self,
        features: FrameFeatures,
        frame_ms: Tensor,
        segments: Mapping[str, Segments],
        states: Mapping[str, StreamState] | None = None,
        steps: Collection[int] | None = None,
    ) -> list[dict[str, StreamState]]:
        """Run all readers over the segments of all videos at once, from a state on.

        Args:
            features: What the readers read of the packed frames.
            frame_ms: Time of every frame in its video, ``[F]`` int64 milliseconds.
            segments: Which frames each reader reads in which segment.
            states: States before these segments; None before the first.
            steps: The steps whose states are returned; None for all.

        Returns:
            The states of all streams after each of these steps.
        """
        runs = {}
        for name, reader in self.readers.items():
            reducer: Any = self.reducers[name] if self.reducers is not None and name in self.reducers else None
            inputs = segment_inputs(features, frame_ms, segments[name])
            runs[name] = run_stream(reader, reducer, inputs, None if states is None else states[name], steps)
        return [dict(zip(runs, step, strict=True)) for step in zip(*runs.values(), strict=True)]

    def _pictures(self, features: FrameFeatures, videos: PackedVideos) -> PictureTokens | None:
        if self.picture_layout is None or self.newline is None:
            return None
        return picture_tokens(features.patches, videos, self.picture_layout, self.newline, self.projector)
