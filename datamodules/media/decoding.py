"""Settings of decoding, and the request that is sent to the decoding process."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.media.decoded_frames import FrameSize
from datamodules.media.frame_sampling import FrameSampling
from datamodules.shards.media_range import MediaRange


@dataclass(frozen=True)
class Decoding:
    """Which library decodes videos, and the limits of time and memory.

    Args:
        backend: ``pyav`` reads any video that FFmpeg knows. ``decord`` reads complete files into memory, decodes them
            from their first frame, and refuses some. ``torchcodec`` needs FFmpeg's shared libraries, refuses some, and
            its process imports torch, so it starts slowly.
        timeout_s: Seconds after which a decoder that has not finished counts as stuck. Time in which the decoder waited
            for a processor is not counted.
        max_pixels: Largest frame or picture that is decoded; 8K has 33 million pixels.
        memory_mb: Memory that decoding one sample may take. Frames are scaled down as they are decoded, so only hostile
            files or very many frames reach this limit.

    Raises:
        ValueError: The backend is unknown or a limit is not positive.
    """

    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    timeout_s: float = 120.0
    max_pixels: int = 64_000_000
    memory_mb: int = 4096

    def __post_init__(self) -> None:
        if self.backend not in ("pyav", "decord", "torchcodec"):
            raise ValueError(f"video backend {self.backend!r} is unknown; choose one of pyav, decord, torchcodec")
        if min(self.timeout_s, self.max_pixels, self.memory_mb) <= 0:
            raise ValueError(f"timeout_s, max_pixels and memory_mb must be positive, got {self}")


class MediaRequest(NamedTuple):
    """Which media to decode, and how."""

    media: MediaRange
    is_image: bool
    sampling: FrameSampling
    size: FrameSize
    where: str  # shard and key, for messages
    start_ms: int | None = None
    end_ms: int | None = None
    every_frame: bool = False  # decode every frame to find damage, and return the first one only

    def to_bytes(self) -> bytes:
        """Serialize as JSON, which preserves file names in any encoding."""
        media = [os.fspath(self.media.path), self.media.offset, self.media.size]
        return json.dumps(self._asdict() | {"media": media, "sampling": asdict(self.sampling)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "MediaRequest":
        """Restore a request from ``to_bytes``."""
        fields = json.loads(data)
        path, offset, size = fields["media"]
        sampling = FrameSampling(**fields["sampling"])
        media = MediaRange(Path(path), offset, size)
        return cls(**fields | {"media": media, "sampling": sampling, "size": FrameSize(*fields["size"])})
