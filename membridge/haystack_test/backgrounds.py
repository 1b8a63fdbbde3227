"""The haystack: frames without needles at any time, from given clips or made up."""

import bisect
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.pretrained.frame_settings import FrameSettings
from datamodules.convert.row_problems import RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.errors import BrokenMediaError
from membridge.media_files import read_media_file

_SCENE_MS = 4000
_GRID = 6  # random colours along a side of a made-up scene
_ZOOM = 1.5  # a made-up scene is larger than the frame, which moves across it
_PIECE = 16  # frames of a clip that are decoded at once
_MOST_CACHED_BYTES = 64 * 2**20
_HASHED_BYTES = 2**20


class Background(Protocol):
    """Frames of an endless video.

    Attributes:
        identity: Equal for equal backgrounds.
    """

    identity: str

    def frame(self, time_ms: int, settings: FrameSettings) -> NDArray[np.uint8]:
        """The frame on display.

        Args:
            time_ms: Time in the endless video.
            settings: How a model reads videos; its ``size`` is set.

        Returns:
            RGB ``[size, size, 3]``; not to be changed.
        """


class MadeBackground:
    """Scenes of 4 s in random colours, across which the camera moves.

    Args:
        seed: Seed of the scenes.
    """

    def __init__(self, seed: int = 0) -> None:
        self.identity = f"made-up scenes, seed {seed}"
        self._seed = seed
        self._scenes: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()

    def frame(self, time_ms: int, settings: FrameSettings) -> NDArray[np.uint8]:
        """See ``Background``."""
        assert settings.size is not None
        number, within = divmod(time_ms, _SCENE_MS)
        scene = self._scene(number, settings.size)
        free = len(scene) - settings.size
        shift = round(within / _SCENE_MS * free)
        top, left = (shift, free - shift) if number % 2 else (free - shift, shift)
        return scene[top : top + settings.size, left : left + settings.size]

    def _scene(self, number: int, size: int) -> NDArray[np.uint8]:
        if (number, size) not in self._scenes:
            random = np.random.default_rng((self._seed, number))
            colours = Image.fromarray(random.integers(0, 256, (_GRID, _GRID, 3), dtype=np.uint8))
            side = round(_ZOOM * size)
            smooth = np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
            noise = random.integers(-12, 13, (side, side, 1), dtype=np.int16)
            self._scenes[number, size] = np.clip(smooth + noise, 0, 255).astype(np.uint8)
            if len(self._scenes) > 2:
                self._scenes.popitem(last=False)
        return self._scenes[number, size]


class ClipBackground:
    """Clips one after another, again and again. They are decoded in pieces, and the newest pieces are kept in memory.

    Args:
        clips: Video files.

    Raises:
        FileNotFoundError: A file is missing.
        datamodules.errors.BrokenMediaError: A file is no video that can be read.
        ValueError: No clip is given.
    """

    def __init__(self, clips: Sequence[Path]) -> None:
        if not clips:
            raise ValueError("a haystack of clips needs at least one video file")
        self._clips = list(clips)
        self._ends = list(accumulate(_length_ms(path) for path in self._clips))
        self.identity = f"clips {_hash_of(self._clips)}"
        self._pieces: OrderedDict[tuple[int, int, FrameSettings], NDArray[np.uint8]] = OrderedDict()

    @property
    def duration_ms(self) -> int:
        """Length of all clips together."""
        return self._ends[-1]

    def frame(self, time_ms: int, settings: FrameSettings) -> NDArray[np.uint8]:
        """See ``Background``.

        Raises:
            datamodules.errors.BrokenMediaError: The clip is damaged.
        """
        time_ms %= self.duration_ms
        clip = bisect.bisect_right(self._ends, time_ms)
        begin = self._ends[clip - 1] if clip else 0
        rate = settings.fps or 1.0
        by_time = FrameSettings(settings.size, settings.fit, None, rate)
        number = int((time_ms - begin) * rate / 1000)
        # The last frame of a clip is on display to its end.
        piece = self._piece(clip, number // _PIECE, by_time)
        frame: NDArray[np.uint8] = piece[min(number % _PIECE, len(piece) - 1)]
        return frame

    def _piece(self, clip: int, number: int, settings: FrameSettings) -> NDArray[np.uint8]:
        """RGB frames ``[T, size, size, 3]``, T at most ``_PIECE``."""
        key = (clip, number, settings)
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        assert settings.fps is not None
        length = self._ends[clip] - (self._ends[clip - 1] if clip else 0)
        start, end = (round(index * _PIECE * 1000 / settings.fps) for index in (number, number + 1))
        media = read_media_file(self._clips[clip], settings, start_ms=min(start, length - 1), end_ms=end)
        frames = np.ascontiguousarray(media.frames.permute(0, 2, 3, 1).numpy())
        self._pieces[key] = frames
        while len(self._pieces) > 1 and sum(each.nbytes for each in self._pieces.values()) > _MOST_CACHED_BYTES:
            self._pieces.popitem(last=False)
        return frames


def _length_ms(path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()})")
    try:
        return max(1, probe_video(path).duration_ms)
    except RowProblem as error:
        raise BrokenMediaError(f"{path} cannot be a part of the haystack: {error}") from error


def _hash_of(paths: Sequence[Path]) -> str:
    """Hash of sizes and beginnings: complete files may be large."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.stat().st_size} ".encode() + file.read(_HASHED_BYTES))
    return digest.hexdigest()[:32]
