"""A video or picture that a model has read: its frames, scenes, and what the memory keeps of it."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import Segments, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings
from components.segmenters.depth import adjacent_similarity
from components.streams import StreamState
from components.video_reading import EncodedVideos, VideosRead
from datamodules.media.sample_media import SampleMedia
from membridge.video_batches import packed_video


class Scene(NamedTuple):
    """A segment of a video."""

    start_ms: int
    end_ms: int  # time of its last frame
    num_frames: int
    admitted: float | None  # 0..1, how much of it the gate admitted to the memory; None: the memory has no gate


class MediumSource(NamedTuple):
    """The file of a video or picture, and how it was read."""

    path: Path
    start_ms: int | None  # start and end of the part that was read; None: the beginning, the end
    end_ms: int | None
    frames: FrameSettings


class OpenedMedium(NamedTuple):
    """A video or picture, encoded once by a model; questions about it encode nothing again.

    The memory is read once too, unless the model chooses frames by the question.
    """

    name: str
    frames: Tensor  # uint8 [T, 3, H, W] on the host, as the encoder reads them
    frame_ms: list[int]
    scenes: list[Scene]
    similarity: list[float]  # cosine similarity of neighbouring frames, [T - 1]
    read: VideosRead | None  # None: the model reads other frames for every question
    encoded: EncodedVideos | None = None  # kept only where ``read`` is None
    source: MediumSource | None = None  # None: the frames did not come from a file

    @property
    def num_frames(self) -> int:
        """Frames that the model read."""
        return len(self.frame_ms)

    def visual_tokens(self, model: VideoLanguageModel, text: TextInputs) -> VisualTokens:
        """What the language model sees of it, one row.

        Args:
            model: The model that has read it.
            text: One conversation; only readers of questions need it.
        """
        return self.visual_rows(model, _about_first(text))._replace(row_index=None)

    def visual_rows(self, model: VideoLanguageModel, text: TextInputs) -> VisualTokens:
        """What the language model sees of it in several conversations, all about this medium alone.

        Args:
            model: The model that has read it.
            text: The conversations.
        """
        read = self._read_for(model, text)
        return model.read(read.last, text, read.pictures)

    @torch.no_grad()
    def segment_attention(self, model: VideoLanguageModel, text: TextInputs) -> list[float] | None:
        """How much the readers' queries attend to each scene, mean over queries; None if no reader shows it."""
        if self.read is None:
            return None  # its segments are not the scenes
        for name, reader in model.readers.items():
            asked = model.questions(_about_first(text)) if reader.reads_questions else None
            state: StreamState = self.read.last[name]
            shown = reader.diagnostics(state.reader, asked, with_attention=True).segment_attention
            if shown is not None:
                return [float(share) for share in shown[0].float().mean(dim=0)[: len(self.scenes)]]
        return None

    def _read_for(self, model: VideoLanguageModel, text: TextInputs) -> VideosRead:
        if self.read is not None:
            return self.read
        assert self.encoded is not None, "neither read nor encoded"
        return model.read_encoded(self.encoded, lambda _: (), model.asked(text))


@torch.no_grad()
def open_medium(
    model: VideoLanguageModel,
    path: str | Path,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    frames: FrameSettings | None = None,
) -> OpenedMedium:
    """Decode a file as the model was trained to, and let the model read it.

    Args:
        model: A model in evaluation mode.
        path: File of a video or picture.
        start_ms: Start of the part to look at; by default the beginning.
        end_ms: End of that part; by default the end.
        frames: How the file becomes frames; by default the model's own settings, which it was trained with.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The part has no length, or the model reads cached features.
        datamodules.errors.SampleError: The file cannot be decoded, or the part is not in the video.
    """
    from membridge.media_files import read_media_file  # needs av and torchvision, which opening a model does not

    source = MediumSource(Path(path), start_ms, end_ms, frames or model.training_facts.frames)
    media = read_media_file(source.path, source.frames, start_ms=start_ms, end_ms=end_ms)
    return read_medium(model, source.path.name, media)._replace(source=source)


@torch.no_grad()
def read_medium(model: VideoLanguageModel, name: str, media: SampleMedia) -> OpenedMedium:
    """Let a model read frames.

    Args:
        model: A model in evaluation mode.
        name: Name to show.
        media: The frames.
    """
    encoded = model.encode(packed_video(model, media))
    times: list[int] = media.frame_ms.tolist()
    similarity = [] if media.picture_size is not None else adjacent_similarity(encoded.features.cls).tolist()
    if model.frame_scorer is not None:
        every_frame = model.segment(encoded.features, encoded.videos.frame_counts)
        scenes = _scenes(next(iter(every_frame.values())), times, None)
        without_pixels = encoded.videos._replace(frames=encoded.videos.frames[:0])  # they are encoded
        kept = encoded._replace(videos=without_pixels)
        return OpenedMedium(name, media.frames, times, scenes, similarity, None, kept)
    read = model.read_encoded(encoded, lambda _: ())  # keeps the last states only
    scenes = _scenes(next(iter(read.segments.values())), times, _admitted(model, read))
    return OpenedMedium(name, media.frames, times, scenes, similarity, read)


def _about_first(text: TextInputs) -> TextInputs:
    """One conversation as one about this medium alone."""
    return text._replace(video_index=torch.zeros(1, 1, dtype=torch.int64))


def _admitted(model: VideoLanguageModel, read: VideosRead) -> list[float] | None:
    """How much of every segment the first reader with a gate admitted."""
    for name, reader in model.readers.items():
        shown = reader.diagnostics(read.last[name].reader).admitted
        if shown is not None:
            return [float(share) for share in shown[0]]
    return None


def _scenes(segments: Segments, times: list[int], admitted: list[float] | None) -> list[Scene]:
    """The segments of the one video, as times of the frames that are read of them."""
    scenes = []
    for number, mask in enumerate(segments.frame_mask[0]):
        frames = segments.frame_index[0, number][mask].tolist()
        if frames:
            gate = None if admitted is None else admitted[number]
            scenes.append(Scene(times[min(frames)], times[max(frames)], len(set(frames)), gate))
    return scenes
