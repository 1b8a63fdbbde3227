"""Prepares the media of one sample: finds it, checks it, and reencodes it if requested. Worker processes run this."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.convert.media_paths import NamedAs, find_media, stored_ending, usual_field
from datamodules.convert.reencode_picture import (
    CONVERTED_FORMATS,
    PICTURE_FORMATS,
    probe_image,
    write_animation,
    write_picture,
)
from datamodules.convert.reencode_video import Reencoding, reencode_video
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.tar_contents import copy_member, is_tar
from datamodules.convert.video_check import probe_video
from datamodules.errors import BrokenMediaError
from datamodules.media.file_formats import HEAD_BYTES, TEXT_FORMATS, VIDEO_FORMATS, format_of
from datamodules.media.npy_file import array_duration_ms, read_npy_header
from datamodules.media.pictures import READ_FORMATS
from datamodules.shards.member_names import ARRAY_ENDINGS, VIDEO_ENDINGS

_ENDING_OF_PICTURE = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_ENDING_OF_VIDEO = {form: form.lower() for form in VIDEO_FORMATS}


class Preparation(NamedTuple):
    """How media are prepared.

    Attributes:
        probe: Whether files are opened to check them and to measure them for ``meta``.
        reencoding: Size of stored media; None = as they are.
        scratch: Folder for temporary files.
    """

    probe: bool
    reencoding: Reencoding | None
    scratch: Path

    def scratch_file(self, job: "MediaJob") -> Path:
        """Path of a sample's temporary file."""
        return self.scratch / str(job.number)


class MediaJob(NamedTuple):
    """The media of one sample, for a worker process."""

    number: int
    media: str
    folders: tuple[str, ...]
    start_ms: int | None
    end_ms: int | None
    named_as: NamedAs | None = None  # field of the row; None = not known
    frame_interval_ms: float | None = None  # of a video in an npy file


class PreparedMedia(NamedTuple):
    """A file that can be stored in a shard."""

    path: Path
    ending: str
    meta: dict[str, int | float]
    is_cut: bool = False  # the file holds only the part that the rows name, or is a picture
    is_scratch: bool = False  # a temporary file, to be removed after it is stored


def prepare(job: MediaJob, preparation: Preparation, tick: Callable[[], None]) -> PreparedMedia:
    """Find, check and reencode the media of one sample.

    The format follows from the file's bytes, so its name may have no ending or a wrong one.

    Args:
        job: Which media.
        preparation: How it is prepared.
        tick: Called again and again during long work, to show that it is not stuck.

    Returns:
        The file to store. Its ``meta`` holds ``width`` and ``height`` and, of a video, ``duration_ms``: the length of
        the part that the rows name. It is empty if the file was not opened (no ``probe``).

    Raises:
        RowProblem: The media is missing, damaged or has a format that shards do not hold.
    """
    if not is_tar(job.folders):
        return _prepare_file(find_media(job.media, job.folders, job.named_as), job, preparation, tick)
    (tar,) = job.folders
    path = preparation.scratch_file(job).with_suffix(f".source{PurePosixPath(job.media).suffix}")
    try:
        copy_member(Path(tar), job.media, path, tick)
        prepared = _prepare_file(path, job, preparation, tick)
    except RowProblem as problem:
        path.unlink(missing_ok=True)
        raise RowProblem(problem.reason, problem.message.replace(str(path), f"{tar}: {job.media}")) from problem
    if prepared.path == path:
        return prepared._replace(is_scratch=True)
    path.unlink()
    return prepared


def _prepare_file(path: Path, job: MediaJob, preparation: Preparation, tick: Callable[[], None]) -> PreparedMedia:
    form = format_of(_head(path))
    if form in TEXT_FORMATS:
        raise RowProblem(Reason.DAMAGED, f"{path} is {form}, not media; fetch the file itself")
    named_as = job.named_as or usual_field(path.name)
    ending = stored_ending(path)
    if ending in ARRAY_ENDINGS:
        return _prepare_array(path, job, preparation.probe)
    is_opened = preparation.probe or preparation.reencoding is not None
    if not is_opened and ending is not None and named_as == usual_field(path.name) and _fits(form, ending):
        return PreparedMedia(path, ending, {})
    if _is_picture(form, path, named_as):
        return _prepare_picture(path, form, job, preparation, tick)
    if ending not in VIDEO_ENDINGS:
        ending = _ENDING_OF_VIDEO.get(str(form))
    if preparation.reencoding is not None:
        return _shrink_video(path, job, preparation, preparation.reencoding, tick)
    if ending is None:
        kind = f"files ending in {path.suffix!r}" if path.suffix else "files of this kind, without an ending,"
        raise RowProblem(Reason.UNSUPPORTED, f"{path}: {kind} are not stored as they are; try --reencode")
    return PreparedMedia(path, ending, _video_meta(path, job) if preparation.probe else {})


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise RowProblem(
            Reason.MISSING, f"{path} cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error
    if not head:
        raise RowProblem(Reason.DAMAGED, f"{path} is empty; fetch it again")
    return head


def _fits(form: str | None, ending: str) -> bool:
    """Whether a file may have the format of its ending."""
    return form is None or form in (_ENDING_OF_VIDEO if ending in VIDEO_ENDINGS else _ENDING_OF_PICTURE)


def _is_picture(form: str | None, path: Path, named_as: NamedAs) -> bool:
    if form == "GIF":  # may be either: the row decides
        return named_as == "image"
    if form in PICTURE_FORMATS or form in _ENDING_OF_VIDEO:
        return form in PICTURE_FORMATS
    return usual_field(path.name) == "image" or (named_as == "image" and not path.suffix)


def _prepare_array(path: Path, job: MediaJob, probe: bool) -> PreparedMedia:
    """Check an array of frames, which is stored as it is, with or without ``reencoding``."""
    if job.frame_interval_ms is None:
        raise RowProblem(Reason.MALFORMED, f"{path}: only a field 'video' may name an npy file")
    meta: dict[str, int | float] = {"frame_interval_ms": job.frame_interval_ms}
    if not probe:
        return PreparedMedia(path, "npy", meta)
    try:
        with path.open("rb") as file:
            num_frames, height, width, _ = read_npy_header(file, path.stat().st_size, str(path)).shape
    except BrokenMediaError as error:
        raise RowProblem(Reason.DAMAGED, str(error)) from error
    part_ms = _part_ms(path, job, array_duration_ms(num_frames, job.frame_interval_ms))
    return PreparedMedia(path, "npy", {"width": width, "height": height, "duration_ms": part_ms} | meta)


def _prepare_picture(
    path: Path, form: str | None, job: MediaJob, preparation: Preparation, tick: Callable[[], None]
) -> PreparedMedia:
    if form in PICTURE_FORMATS and form not in (*READ_FORMATS, *CONVERTED_FORMATS):
        raise RowProblem(Reason.UNSUPPORTED, f"{path} is {form}, which is not read; write it as JPEG or PNG")
    target = preparation.scratch_file(job)
    facts = probe_image(path)
    if job.named_as == "video" and facts.num_frames > 1:
        return _prepare_animation(path, target, job, preparation, tick)
    size = None if preparation.reencoding is None else preparation.reencoding.size
    is_written = True
    if size is not None and size < min(facts.width, facts.height):
        facts = write_picture(path, target, size)
    elif facts.format not in READ_FORMATS:
        facts = write_picture(path, target)
    else:
        is_written = False
    meta: dict[str, int | float] = {"width": facts.width, "height": facts.height}
    ending = _ENDING_OF_PICTURE[facts.format]
    return PreparedMedia(target if is_written else path, ending, meta, is_cut=True, is_scratch=is_written)


def _prepare_animation(
    path: Path, target: Path, job: MediaJob, preparation: Preparation, tick: Callable[[], None]
) -> PreparedMedia:
    if preparation.reencoding is None:
        write_animation(path, target, tick)
        return PreparedMedia(target, "mkv", _video_meta(target, job), is_scratch=True)
    frames = target.with_suffix(".frames")
    try:
        write_animation(path, frames, tick)
        return _shrink_video(frames, job, preparation, preparation.reencoding, tick)
    finally:
        frames.unlink(missing_ok=True)


def _shrink_video(
    path: Path, job: MediaJob, preparation: Preparation, reencoding: Reencoding, tick: Callable[[], None]
) -> PreparedMedia:
    target = preparation.scratch_file(job)
    _video_meta(path, job, stored=False)  # a file that is cut off is left out, not stored shorter
    reencode_video(path, target, reencoding, job.start_ms, job.end_ms, tick)
    width, height, duration_ms = probe_video(target)
    meta: dict[str, int | float] = {"width": width, "height": height, "duration_ms": duration_ms}
    return PreparedMedia(target, "mp4", meta, is_cut=True, is_scratch=True)


def _video_meta(path: Path, job: MediaJob, *, stored: bool = True) -> dict[str, int | float]:
    width, height, duration_ms = probe_video(path, stored=stored)
    return {"width": width, "height": height, "duration_ms": _part_ms(path, job, duration_ms)}


def _part_ms(path: Path, job: MediaJob, duration_ms: int) -> int:
    """Length of the part of a video that a row names, in milliseconds."""
    start, end = job.start_ms or 0, min(job.end_ms or duration_ms, duration_ms)
    if start >= end:
        raise RowProblem(Reason.SPAN, f"{path}: the part starts at {start} ms, but the video ends at {duration_ms} ms")
    return end - start
