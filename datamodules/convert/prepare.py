"""What worker processes do with one sample: find its media, check it, and write it smaller where that is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datamodules.convert.paths import find_media, stored_ending
from datamodules.convert.pictures import probe_image
from datamodules.convert.problems import Reason, RowProblem
from datamodules.convert.reencode import Reencoding, reencode_image, reencode_video
from datamodules.convert.videos import probe_video
from datamodules.schema import IMAGE_ENDINGS

_PICTURES_TO_REENCODE = frozenset({".bmp", ".tif", ".tiff"})


class Preparation(NamedTuple):
    """What is done with media.

    Attributes:
        probe: Whether files are opened: checked, and measured for ``meta``.
        reencoding: How they are stored; None = as they are.
        scratch: Folder for what is written smaller.
    """

    probe: bool
    reencoding: Reencoding | None
    scratch: Path


class Wanted(NamedTuple):
    """The media of one sample; all that a worker process needs to know."""

    number: int
    media: str
    folders: tuple[str, ...]
    start_ms: int | None
    end_ms: int | None


class Prepared(NamedTuple):
    """A file that can be stored."""

    path: Path
    ending: str
    meta: dict[str, int]
    is_cut: bool = False  # the file holds the wanted part alone
    is_scratch: bool = False  # to be removed once it is stored


def prepare(wanted: Wanted, preparation: Preparation, tick: Callable[[], None]) -> Prepared:
    """Find, check and shrink the media of one sample.

    Args:
        wanted: Which media.
        preparation: What is done with it.
        tick: Called whenever long work gets on.

    Returns:
        The file to store. Its ``meta`` holds ``width`` and ``height`` and, of a video, ``duration_ms``: the length of
        the part that is meant. Without ``probe`` it is empty.

    Raises:
        RowProblem: The media is missing, damaged or of a kind that shards do not hold.
    """
    path = find_media(wanted.media, wanted.folders)
    if path.stat().st_size == 0:
        raise RowProblem(Reason.DAMAGED, f"{path} is empty; fetch it again")
    ending = stored_ending(path)
    if preparation.reencoding is not None:
        return _shrink(path, ending, wanted, preparation, preparation.reencoding, tick)
    if ending is None:
        raise RowProblem(
            Reason.UNSUPPORTED, f"{path}: files ending in {path.suffix!r} are not stored as they are; try --reencode"
        )
    if not preparation.probe:
        return Prepared(path, ending, {})
    if ending in IMAGE_ENDINGS:
        width, height = probe_image(path)
        return Prepared(path, ending, {"width": width, "height": height})
    return Prepared(path, ending, _video_meta(path, wanted))


def _shrink(
    path: Path,
    ending: str | None,
    wanted: Wanted,
    preparation: Preparation,
    reencoding: Reencoding,
    tick: Callable[[], None],
) -> Prepared:
    target = preparation.scratch / str(wanted.number)
    if ending in IMAGE_ENDINGS or path.suffix.lower() in _PICTURES_TO_REENCODE:
        written = reencode_image(path, target, reencoding.size, keep=ending is not None)
        stored = target if written else path
        width, height = probe_image(stored)
        meta = {"width": width, "height": height}
        return Prepared(stored, "jpg" if written else str(ending), meta, is_scratch=written)
    _video_meta(path, wanted, stored=False)  # a file that breaks off is left out, not stored shorter
    reencode_video(path, target, reencoding, wanted.start_ms, wanted.end_ms, tick)
    width, height, duration_ms = probe_video(target)
    meta = {"width": width, "height": height, "duration_ms": duration_ms}
    return Prepared(target, "mp4", meta, is_cut=True, is_scratch=True)


def _video_meta(path: Path, wanted: Wanted, *, stored: bool = True) -> dict[str, int]:
    width, height, duration_ms = probe_video(path, stored=stored)
    start, end = wanted.start_ms or 0, min(wanted.end_ms or duration_ms, duration_ms)
    if start >= end:
        raise RowProblem(Reason.SPAN, f"{path}: the part starts at {start} ms, but the video ends at {duration_ms} ms")
    return {"width": width, "height": height, "duration_ms": end - start}
