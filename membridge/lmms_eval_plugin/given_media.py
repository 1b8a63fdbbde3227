"""The videos and pictures of lmms-eval's tasks: from what a task gives to what a model has read."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from components.model import VideoLanguageModel
from datamodules.errors import SampleError
from datamodules.media.sample_media import SampleMedia
from membridge.frame_folder import read_frame_folder
from membridge.media_files import read_media_file
from membridge.opened_medium import OpenedMedium, read_medium

FRAMES_PER_SECOND = 1.0
"""Of a video that a task gives as a list of pictures; lmms-eval does not say their times."""
_PATHS = ("url", "path", "video", "image")
_STARTS = ("video_start", "start_time")
_ENDS = ("video_end", "end_time")


class GivenMedium(NamedTuple):
    """A video or picture of a task, not read yet: a file, a picture, or the pictures that are a video's frames."""

    path: str = ""
    start_ms: int | None = None
    end_ms: int | None = None
    pictures: tuple[Image.Image, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal media; pictures are equal if they are the same objects."""
        return self.path, self.start_ms, self.end_ms, *map(id, self.pictures)


def given_medium(visual: Any) -> GivenMedium:
    """One medium, as tasks give it.

    Args:
        visual: A path, a picture, a list of a video's frames, or a mapping with a path and the part to use in seconds.

    Raises:
        SampleError: It is something else, such as sound.
    """
    if isinstance(visual, str | Path):
        return GivenMedium(str(visual))
    if isinstance(visual, Image.Image):
        return GivenMedium(pictures=(visual,))
    if isinstance(visual, list | tuple) and visual and all(isinstance(each, Image.Image) for each in visual):
        return GivenMedium(pictures=tuple(visual))
    if isinstance(visual, Mapping):
        inner = next((visual[name] for name in _PATHS if visual.get(name) is not None), None)
        if isinstance(inner, Mapping):
            return given_medium({**inner, **{name: visual[name] for name in (*_STARTS, *_ENDS) if visual.get(name)}})
        if inner is not None:
            return given_medium(inner)._replace(start_ms=_ms(visual, _STARTS), end_ms=_ms(visual, _ENDS))
    raise SampleError(
        f"a task shows a {type(visual).__name__}; this model reads paths of videos and pictures, and PIL pictures"
    )


def read_given(model: VideoLanguageModel, given: GivenMedium) -> OpenedMedium:
    """Decode a medium as the model was trained to, and let the model read it.

    Args:
        model: A model in evaluation mode.
        given: The medium.

    Raises:
        OSError: There is no such file, or it may not be read.
        SampleError: It cannot be decoded, or the part is not in the video.
    """
    return read_medium(model, Path(given.path).name or "pictures", _decoded(model, given))


def _decoded(model: VideoLanguageModel, given: GivenMedium) -> SampleMedia:
    settings = model.training_facts.frames
    if not given.pictures:
        return read_media_file(Path(given.path), settings, start_ms=given.start_ms, end_ms=given.end_ms)
    with tempfile.TemporaryDirectory() as name:
        # Through files, so that they are checked, scaled and cut into tiles as pictures in files are.
        folder = Path(name)
        for number, picture in enumerate(given.pictures):
            picture.convert("RGB").save(folder / f"{number:08d}.png", compress_level=1)
        if len(given.pictures) == 1:
            return read_media_file(folder / f"{0:08d}.png", settings)
        return read_frame_folder(folder, FRAMES_PER_SECOND, settings)


def _ms(visual: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """A time in milliseconds."""
    seconds = next((visual[name] for name in names if visual.get(name) is not None), None)
    return None if seconds is None else round(float(seconds) * 1000)
