r"""Captions a video while it plays, scene by scene: ``python -m apps.caption MODEL SOURCE``.

    python -m apps.caption runs/quickstart/model video.mp4 --srt video.srt
    python -m apps.caption runs/quickstart/model rtsp://192.168.0.20/live --jsonl captions.jsonl
    ffmpeg -i video.avi -f mpegts - | python -m apps.caption runs/quickstart/model -
    python -m apps.caption runs/quickstart/model camera:0 --fps 1

MODEL is a model folder, a name on the model hub, or a training run or its checkpoint. SOURCE is a file, ``-`` for the
standard input, ``camera:0`` (needs OpenCV), or an address ``rtsp://``, ``http://`` or ``https://``.

When a scene ends, the model is asked ``--question`` about it, and the caption is printed with its times. ``--srt``,
``--vtt`` and ``--jsonl`` write files that are readable after every caption, even if this process is killed. Messages
go to the standard error.

A file waits for the model. Of a live source frames are dropped evenly where the model is slower, and their number is
printed. Ctrl-C or SIGTERM ends the reading and captions the last scene; a second Ctrl-C stops at once.

The exit status is 0 at the end of the source, and after Ctrl-C or SIGTERM for a live source (130 for others); 1 if the
source failed after some frames; 2 if nothing could be read or an argument is wrong.
"""

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

from apps.open_model import add_model_arguments, open_given
from command_errors import INTERRUPTED, run_and_exit
from components.model import VideoLanguageModel
from datamodules.errors import BrokenMediaError, SampleError, count_of
from membridge.live.caption_files import FORMS, Caption, CaptionFile, check_caption_files, to_text
from membridge.live.live_frames import LiveFrames, SourceOptions
from membridge.live.scene_captions import CaptionOptions, SceneCaptioner
from membridge.live.video_sources import check_source, shown_name

INCOMPLETE = 1
"""Exit status if the source failed after some frames."""
_DEFAULT_FPS = 1.0
_LEAST_FPS, _MOST_FPS = 1e-4, 1000.0  # times are whole milliseconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.

    Raises:
        ImportError: The source is a camera, and OpenCV is not installed.
        OSError: There is no such file, or a file of captions cannot be written.
        ValueError: An option is wrong, the model cannot stream, or the source cannot be read.
    """
    options = _parser().parse_args(arguments)
    check_source(options.source)
    paths = {form: path for form in FORMS if (path := getattr(options, form)) is not None}
    check_caption_files(paths, options.source, overwrite=options.overwrite)
    model = open_given(options)
    facts = model.training_facts
    fps = options.fps or facts.frames.fps or _DEFAULT_FPS
    limit = options.max_new_tokens or facts.max_new_tokens
    captioner = SceneCaptioner(model, CaptionOptions(options.question, options.about, limit, round(1000 / fps)))
    reading = SourceOptions(options.source, fps, options.timeout, options.drop_frames, tuple(options.ffmpeg_option))
    with ExitStack() as stack:
        frames = stack.enter_context(_reading(model, reading))
        files: list[CaptionFile] = []
        num_captions = 0
        for caption in _captions(frames, captioner):
            if not files:  # a source that cannot be read replaces no file
                files = [stack.enter_context(closing(CaptionFile(path, form))) for form, path in paths.items()]
            for file in files:
                file.add(caption)
            num_captions += 1
            print(to_text(caption), flush=True)
        return _report(frames, captioner, num_captions, shown_name(options.source))


def _captions(frames: LiveFrames, captioner: SceneCaptioner) -> Iterator[Caption]:
    """Captions of all scenes, each when it ends."""
    while some := frames.read(captioner.frames_at_once):
        yield from captioner.push(some)
    if captioner.num_frames:
        yield from captioner.finish()
    elif frames.failure is not None:
        raise frames.failure


@contextmanager
def _reading(model: VideoLanguageModel, options: SourceOptions) -> Iterator[LiveFrames]:
    """Read a source until Ctrl-C or SIGTERM; a second signal is a KeyboardInterrupt."""
    with LiveFrames(options, model.training_facts.frames, _note) as frames:

        def stop(_number: int, _frame: FrameType | None) -> None:
            if frames.is_stopped:
                raise KeyboardInterrupt
            frames.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield frames
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _report(frames: LiveFrames, captioner: SceneCaptioner, num_captions: int, source: str) -> int:
    """Print what was read, and give the exit status."""
    if not captioner.num_frames and not frames.is_stopped:
        raise BrokenMediaError(f"{source} has no frame that can be decoded; check that it is a video")
    parts: Iterable[str] = (
        f"{count_of(num_captions, 'caption')} of {count_of(captioner.num_frames, 'frame')}",
        f"{frames.num_dropped:,} of {count_of(frames.num_sampled, 'frame')} dropped evenly"
        if frames.drops_frames
        else "",
        f"{count_of(frames.num_damaged, 'damaged frame')} left out" if frames.num_damaged else "",
        "stopped" if frames.is_stopped else "",
    )
    _note(f"{source}: {'; '.join(part for part in parts if part)}")
    if frames.failure is not None:
        if not isinstance(frames.failure, SampleError):  # a bug
            raise frames.failure
        _note(f"error: {frames.failure}")
        return INCOMPLETE
    return INTERRUPTED if frames.is_stopped and not frames.drops_frames else 0


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _frame_rate(text: str) -> float:
    value = _positive(text)
    if not _LEAST_FPS <= value <= _MOST_FPS:
        raise argparse.ArgumentTypeError(f"{text} is not from {_LEAST_FPS:g} to {_MOST_FPS:g} frames per second")
    return value


def _token_limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE, such as rtsp_transport=udp")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apps.caption",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("source", metavar="SOURCE", help="file, -, camera:0, or an address rtsp:// or http(s)://")
    parser.add_argument(
        "--question", default="Describe what happens.", help="what the model is asked (default: %(default)s)"
    )
    parser.add_argument(
        "--about",
        choices=("scene", "video"),
        default="scene",
        help="what it is asked about: the scene that has ended, or the video so far (default: scene)",
    )
    for form, name in (("srt", "SubRip"), ("vtt", "WebVTT"), ("jsonl", "JSON lines")):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"write captions as {name}")
    parser.add_argument("--overwrite", action="store_true", help="replace caption files that are there already")
    parser.add_argument(
        "--fps", type=_frame_rate, help=f"frames per second to read (default: as in training, or {_DEFAULT_FPS:g})"
    )
    parser.add_argument(
        "--timeout", type=_positive, default=30.0, help="seconds without a frame until it gives up (default: 30)"
    )
    parser.add_argument(
        "--drop-frames",
        action=argparse.BooleanOptionalAction,
        help="drop frames where the model is slower (default: for cameras and live streams only)",
    )
    parser.add_argument("--max-new-tokens", type=_token_limit, help="longest caption (default: as in the evaluation)")
    parser.add_argument(
        "--ffmpeg-option",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of FFmpeg for opening a file or stream, such as rtsp_transport=udp; may be given several times",
    )
    return parser


if __name__ == "__main__":
    run_and_exit(main)
