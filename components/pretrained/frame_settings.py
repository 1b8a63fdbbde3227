"""What a video must become to be what a model was trained on, and what trained it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class FrameSettings:
    """How a video or picture becomes the frames that a model reads.

    Args:
        size: Height and width of a frame in pixels; None: the model reads cached features, no pixels.
        fit: ``crop`` scales the shorter side and crops the centre; ``pad`` scales the longer side and pads with black;
            ``stretch`` scales both sides to the size.
        num_frames: Frames of every video, whatever its length; None = use ``fps``.
        fps: Frames per second of video.
        max_frames: Upper limit with ``fps``; longer videos get fewer frames per second.
        tiles_per_side: Most tiles along a side of a picture that is cut into tiles; None: a picture is one frame.
        window: Frames that the encoder reads together; 1: each by itself; None: all frames of a video.
    """

    size: int | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    num_frames: int | None = 16
    fps: float | None = None
    max_frames: int | None = None
    window: int | None = 1
    tiles_per_side: int | None = None


class TrainingFacts(NamedTuple):
    """What a model's folder says about its training."""

    frames: FrameSettings = FrameSettings()
    max_new_tokens: int = 64  # longest answer that was generated in its evaluation
    run: Mapping[str, Any] = {}  # for the model card: checkpoint, steps, data, config
