"""Compares time and memory of bridges with the published code: ``python -m benchmarks.bridge``.

Times forward (inference) and forward + backward (gradients of all bridge weights), from the encoder's features to the
language model's visual tokens, at width 1024, language model width 4096, 8 heads, 256 patches a frame pooled to 12x12:

    original     the published bridge, computed as in its code (``original.py``), one video a call
    published    our ``VideoLLaMBBridge``: the same numbers, all videos of a batch in one call
    default      our ``RecurrentMemoryBridge`` with default settings, on the same frames (at most 4 x 8 a video)
    every_frame  the same on all frames, in segments of at most 8

and, at width ``--dim``, of pooled 14x14 patches in segments of 32 frames, 8 heads, two layers, MLP fuser:

    original_grid_memory  the memory of Memory-Augmented VLM, computed as in its code (``original_grid_memory.py``)
    grid_memory           our ``GridMemory``: the same numbers, all videos of a batch in one call

All forms alternate in one process and the fastest of several rounds counts, so other work on the machine affects all
equally. Ratios are to the form's original of the same run. Peak memory is the growth of a new process's resident size
beyond weights and features. Exits with 1 if the output of ``published`` or ``grid_memory`` differs from the original's
by more than 1.5e-5 of the largest entry, or its gradients by more than 1e-5.
"""

import argparse
from collections.abc import Sequence

import torch

from benchmarks.bridge.forms import FORMS, Widths, make_videos
from benchmarks.bridge.measuring import (
    Case,
    Differences,
    Peaks,
    Seconds,
    compare_with_original,
    measure_peaks,
    measure_seconds,
)
from benchmarks.command_options import add_clock_option, add_numbers
from benchmarks.parity.comparison import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE
from benchmarks.resident_memory import in_fresh_process
from command_errors import run_and_exit


def describe(case: Case, seconds: Seconds, original: Seconds | None, peaks: Peaks | None) -> str:
    """One line of the table."""
    cells: list[str] = [str(case.num_frames), case.form, str(case.num_videos)]
    for ours, theirs in zip(seconds, original or (None, None), strict=True):
        a_video = ours / case.num_videos
        cells += [f"{ours:.2f}", f"{a_video:.2f}", f"{theirs / a_video:.1f}" if theirs else "-"]
    cells += [f"{peak / 2**30:.2f}" for peak in peaks] if peaks else ["-", "-"]
    return f"| {' | '.join(cells)} |"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bridge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64, 320], help="frames a video, multiples of 8")
    parser.add_argument("--videos", type=int, nargs="+", default=[1, 8], help="videos a call")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["original", "published", "default"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    add_clock_option(parser)
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which takes a process for each case"
    )
    add_numbers(parser, Widths()._asdict())
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    given = _parse(arguments)
    torch.set_num_threads(given.threads)
    widths = Widths(given.dim, given.out_dim)
    print(f"{widths} on {given.threads} CPU threads, torch {torch.__version__}, fastest of {given.rounds}")
    print(f"seconds by the {given.clock} clock, peaks in GiB\n")
    print(
        "| frames | form | videos | forward, s | a video | x original | forward + backward, s | a video | x original ",
        end="",
    )
    print("| peak forward | peak both |\n" + "|---" * 11 + "|")
    worst = dict.fromkeys(_compared(given.forms), Differences(0.0, 0.0))
    for num_frames in given.frames:
        videos = make_videos(max(given.videos), num_frames, widths.dim)
        for form, before in worst.items():
            worst[form] = Differences(*map(max, before, compare_with_original(form, widths, videos)))
        cases = [
            Case(form, number, num_frames)
            for form in given.forms
            for number in (given.videos if FORMS[form].batches else [1])
        ]
        seconds = measure_seconds(cases, widths, videos, given.rounds, given.clock)
        del videos
        for case in cases:
            original = seconds.get(Case(FORMS[case.form].original, 1, num_frames))
            peaks = None if given.no_memory else in_fresh_process(measure_peaks, case, widths, given.threads)
            print(describe(case, seconds[case], original, peaks), flush=True)
    print()
    return 0 if all([_describe_differences(form, found) for form, found in worst.items()]) else 1


def _compared(forms: Sequence[str]) -> list[str]:
    """Forms to compare with their originals: those of which the form or its original is measured."""
    return [name for name, form in FORMS.items() if form.same_numbers and (name in forms or form.original in forms)]


def _describe_differences(form: str, found: Differences) -> bool:
    """Print how far a form is from its original; whether this is within the tolerance."""
    met = found.tokens <= OUTPUT_TOLERANCE and found.gradients <= GRADIENT_TOLERANCE
    print(
        f"{form} to {FORMS[form].original}: tokens {found.tokens:.1e} of {OUTPUT_TOLERANCE:.1e}, "
        f"gradients {found.gradients:.1e} of {GRADIENT_TOLERANCE:.1e}, relative: "
        f"{'within' if met else 'ABOVE'} tolerance"
    )
    return met


if __name__ == "__main__":
    run_and_exit(main)
