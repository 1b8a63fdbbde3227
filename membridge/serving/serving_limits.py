"""What an operator chooses: limits of sizes, times and numbers, and what clients may name."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class ServingLimits:
    """Limits that bound a server's memory, disk and time.

    Args:
        waiting: Requests that are answered or wait for the model; further ones get a 503.
        connections: Requests in progress, bodies that still arrive included; further ones get a 503.
        json_bytes: Largest JSON body, and largest form with frames of a session.
        upload_bytes: Largest uploaded or downloaded file.
        stored_bytes: Disk space of all uploads and downloads together. An upload that arrives is on the disk twice for
            a moment.
        stored_seconds: An uploaded file is removed when it was not used for so long.
        media: Videos and pictures of a request.
        video_seconds: Longest video, or part of a video.
        new_tokens: Longest answer.
        answer_seconds: From a complete request to the end of its answer, waiting included.
        body_seconds: A body may take this long, and longer where it arrives at ``body_bytes_per_second`` or more.
        body_bytes_per_second: See ``body_seconds``.
        decoding_seconds: A file that takes longer to decode is refused.
        cache_bytes: Memory for media that the model has read, so that a next question about them reads nothing again.
        sessions: Streaming sessions at the same time.
        session_seconds: A session is removed when it was not used for so long.
        session_frames: Frames of a session.
        pushed_frames: Frames of a session that come in one request.

    Raises:
        ValueError: A limit is not positive.
    """

    waiting: int = 8
    connections: int = 32
    json_bytes: int = 8 << 20
    upload_bytes: int = 1 << 30
    stored_bytes: int = 4 << 30
    stored_seconds: float = 3600
    media: int = 8
    video_seconds: float = 2 * 3600
    new_tokens: int = 1024
    answer_seconds: float = 300
    body_seconds: float = 20
    body_bytes_per_second: float = 32 << 10
    decoding_seconds: float = 60
    cache_bytes: int = 512 << 20
    sessions: int = 8
    session_seconds: float = 600
    session_frames: int = 36_000
    pushed_frames: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) <= 0:
                raise ValueError(f"{field.name} is {value}; expected more than 0")


class ServingOptions(NamedTuple):
    """What an operator chooses."""

    name: str  # of the model
    folder: Path  # an empty folder for uploads and downloads
    root: Path | None = None  # folder of local files that clients may name
    hosts: tuple[str, ...] = ()  # from which clients may let the server download
    api_key: str | None = None
    only_loopback_names: bool = False  # see ``GuardRules``
    limits: ServingLimits = ServingLimits()
