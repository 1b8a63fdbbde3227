r"""Measures videos that play for ten hours, and several at once: ``python -m benchmarks.streaming``.

    python -m benchmarks.streaming --clock cpu --threads 1

The first table follows one video of 36,000 frames, shown at one frame a second, through three memories of the same
trained model: the selective one, one of fixed capacity, and a cache of every segment without selection. After 1,000,
10,000 and 36,000 frames it has the time of a frame (without the encoder, whose outputs are stored), the bytes of the
state, and the seconds to an answer. The video is made of the quickstart's held-out videos, in random order, again and
again. The second table has the frames a second of 1, 4 and 16 sessions that share encoder and language model.

It needs a model that `make quickstart` trained. Exits with 1 if the last frame costs more than 1.05 times the first
one measured, in a memory that is bounded by its gate or its capacity, or a session in a group answers differently.
"""

import argparse
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

import torchvision_import  # noqa: F401  must precede the first import of torchvision by anyone
from apps.quickstart.fetch import fetch_parts
from benchmarks.command_options import CLOCKS, add_clock_option, add_numbers
from benchmarks.results_page import replace_section, replace_summary, table
from benchmarks.streaming.long_stream import BOUNDED, SCENES, SELECTIVE, Point, Window, memories, walk
from benchmarks.streaming.shared_sessions import Shared, clip_frames, measure_sessions, with_encoder
from benchmarks.token_drop import stored_features
from command_errors import run_and_exit
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import FrameEncoder
from datamodules.shards.shard_names import find_shards
from lightning_modules.trained_model import load_model

COST_LIMIT = 1.05
ANCHOR = "streaming-at-length"
SESSIONS = (1, 4, 16)
_TEN_HOURS = 36_000
_NUMBERS = {
    "frames": _TEN_HOURS,
    "capacity": 32,
    "window_frames": 400,
    "rounds": 9,
    "session_frames": 60,
    "threads": 1,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if the cost of a frame grows, or a session answers differently in a group.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    torch.set_num_threads(options.threads)
    clock = CLOCKS[options.clock]
    model = load_model(options.model)
    videos = [features.float() for features in islice(stored_features(find_shards(options.shards)), options.videos)]
    if not videos:
        raise ValueError(f"{', '.join(options.shards)} have no cached features: run `make quickstart` first")
    points = [max(1, options.frames * share // 36) for share in (1, 10, 36)]
    everything = torch.cat(videos)
    window = Window(everything[torch.arange(options.window_frames) % len(everything)], options.rounds)
    measured: dict[str, list[Point]] = {}
    for name, each in memories(model, options.capacity).items():
        measured[name] = walk(each, videos, points, window, options.question, clock)
        print(f"{name}: {measured[name]}", file=sys.stderr, flush=True)
    encoder, frames = encoder_and_frames()
    pixels = with_encoder(model, encoder)
    shared = measure_sessions(pixels, frames, SESSIONS, options.session_frames, options.question, clock)
    section = describe(measured, shared, options, given, videos)
    print(section)
    growth = {name: each[-1].frame_seconds / each[0].frame_seconds for name, each in measured.items()}
    if options.results is not None:
        _write(options.results, section, growth, measured, f"CPU, threads: {options.threads}")
    bounded = all(growth[name] <= COST_LIMIT for name in (SELECTIVE, BOUNDED, SCENES))
    same = all(each.same_answers for each in shared)
    print(f"\nlast frame costs at most {COST_LIMIT} times the first one measured: {'yes' if bounded else 'NO'}")
    print(f"sessions answer in a group as alone: {'yes' if same else 'NO'}")
    return 0 if bounded and same else 1


def encoder_and_frames() -> tuple[FrameEncoder, Tensor]:
    """The quickstart's encoder, and the frames of its clips."""
    parts = fetch_parts()
    return HuggingFaceVisionEncoder(str(parts.encoder), layer=6, image_size=84), clip_frames(parts.clips)


def describe(
    measured: Mapping[str, Sequence[Point]],
    shared: Sequence[Shared],
    options: argparse.Namespace,
    given: Sequence[str],
    videos: Sequence[Tensor],
) -> str:
    """The section of the results page."""
    command = shlex.join(["python", "-m", "benchmarks.streaming", *given])
    seconds = "processor time" if options.clock == "cpu" else "wall time"
    num_frames, (rows_of_frame, width) = sum(map(len, videos)), videos[0].shape[1:]
    first = (
        f"`{command}` (CPU, threads: {options.threads}; {date.today()}); torch {torch.__version__}, float32, "
        f"{seconds}. One video of {options.frames:,} frames at one frame a second: {len(videos)} videos of the "
        "quickstart's kind "
        "(needles in runs of frames of three real clips) in random order, again and again, "
        f"{num_frames:,} different frames. The encoder's outputs are stored ({rows_of_frame} vectors of width {width} "
        "a frame), so its time is not in the table. The model was trained on such videos, in segments of 4 frames; "
        f"the memory of fixed capacity holds the {options.capacity} segments for which the gate was most likely to "
        "open, whether it opened or not; SceneTilling cuts at alpha 1 and after 4 frames. ms a frame: median over "
        "blocks of 20 frames, the same frames at every point. Answer: from the question to its end, a few words."
    )
    second = (
        f"Sessions that play parts of the three clips at once, a frame of each at a time, {options.session_frames} "
        "frames each, through DINOv2-S and the bridge. Alone: every session is pushed by itself. Together: the encoder "
        "reads the frames of all sessions in one call. x: together, against one session."
    )
    first, second = (textwrap.fill(text, 120, break_on_hyphens=False) for text in (first, second))
    lines = ["## Streaming at length", "", first, "", *_table_of_memories(measured), "", second, ""]
    return "\n".join([*lines, *_table_of_sessions(shared)])


def _table_of_memories(measured: Mapping[str, Sequence[Point]]) -> list[str]:
    rows = [
        [
            name,
            f"{point.frames:,}",
            f"{1e3 * point.frame_seconds:.3f}",
            f"{point.frame_seconds / points[0].frame_seconds:.3f}",
            f"{point.state_bytes:,}",
            f"{1e3 * point.answer_seconds:.1f}",
        ]
        for name, points in measured.items()
        for point in points
    ]
    return table(("memory", "frames so far", "ms a frame", "x", "state bytes", "answer, ms"), rows)


def _table_of_sessions(shared: Sequence[Shared]) -> list[str]:
    rows = [
        [
            str(each.sessions),
            f"{each.alone:.1f}",
            f"{each.together:.1f}",
            f"{each.together / shared[0].alone:.2f}",
            "yes" if each.same_answers else "no",
        ]
        for each in shared
    ]
    return table(("sessions", "alone, frames/s", "together, frames/s", "x", "same answers"), rows)


def _write(
    page: Path, section: str, growth: Mapping[str, float], measured: Mapping[str, Sequence[Point]], device: str
) -> None:
    last = measured[BOUNDED][-1]
    figure = (
        f"{growth[SELECTIVE]:.2f} (selective) and {growth[BOUNDED]:.2f} (fixed capacity) times the cost of frame "
        f"{measured[BOUNDED][0].frames:,}; state of fixed capacity {last.state_bytes / 2**20:.2f} MiB"
    )
    text = replace_section(page.read_text(encoding="utf-8"), "streaming", section)
    page.write_text(
        replace_summary(text, ANCHOR, figure=figure, device=device, made=str(date.today())), encoding="utf-8"
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/quickstart/memory/last/checkpoints/final.ckpt"),
        help="checkpoint of a model of cached features with a selective memory",
    )
    parser.add_argument(
        "--shards",
        nargs="+",
        default=["runs/quickstart/features/eval-8x-*.tar"],
        help="feature shards that the video is made of",
    )
    parser.add_argument("--videos", type=int, default=None, help="most videos that are read from them")
    parser.add_argument("--question", default="which colour is the shape ?")
    add_numbers(parser, _NUMBERS)
    parser.add_argument("--results", type=Path, default=None, help="page whose section the tables replace")
    add_clock_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_and_exit(main)
