"""Measures the time of SceneTilling for long videos: ``python -m benchmarks.scene_tilling``.

Times both forms on random, monotone and constant similarity curves (a step-by-step search for peaks takes quadratic
time on the last two). It times the part from the similarity curve on, for one video and for a batch, and the complete
call from the class vectors of one video, which reads T x D numbers. The fastest of several runs counts. Exits with 1 if
finding the boundaries of a video from its similarity curve takes more than a millisecond.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.command_options import CLOCKS, add_clock_option
from command_errors import run_and_exit
from components.segmenters.scene_tilling import SceneTilling

LIMIT_MS = 1.0
_FORMS = {"top-k (k=3)": SceneTilling(k=3), "threshold (alpha=0.5)": SceneTilling(alpha=0.5, max_cuts=15)}


def class_vectors(kind: str, num_frames: int, dim: int, device: str) -> Tensor:
    """Class vectors whose similarity curve has a given shape.

    Args:
        kind: ``random``, ``monotone`` or ``constant``.
        num_frames: Frames, T.
        dim: Vision width D.
        device: Where to put them.

    Returns:
        ``[T, D]`` float32.
    """
    generator = torch.Generator().manual_seed(0)
    if kind == "random":
        return torch.randn(num_frames, dim, generator=generator).to(device)
    # Each frame is the one before, rotated in the plane of the first two axes by an angle that shrinks or stays.
    turn = torch.linspace(1.0, 0.1, num_frames) if kind == "monotone" else torch.full((num_frames,), 0.1)
    angle = turn.double().cumsum(0)
    vectors = torch.zeros(num_frames, dim)
    vectors[:, 0], vectors[:, 1] = angle.cos(), angle.sin()
    return vectors.to(device)


def similarity_curves(kind: str, num_videos: int, num_frames: int, device: str) -> Tensor:
    """Similarity of every gap, ``[V, T - 1]``; see ``class_vectors`` for ``kind``."""
    if kind == "random":
        curves = torch.rand(num_videos, num_frames - 1, generator=torch.Generator().manual_seed(0))
    else:
        curves = torch.linspace(0.0, 0.9 if kind == "monotone" else 0.0, num_frames - 1).repeat(num_videos, 1)
    return curves.to(device)


def milliseconds(call: Callable[[], Tensor], device: str, repeats: int, clock: Callable[[], float]) -> float:
    """Fastest time of a call until its result is there; other work on the machine can only make it slower."""
    fastest = float("inf")
    for _ in range(repeats + 2):
        start = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        fastest = min(fastest, (clock() - start) * 1000)
    return fastest


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per form and curve; the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").replace("``", ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=8, help="videos of the batch")
    parser.add_argument("--dim", type=int, default=1024, help="width of the class vectors")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=200)
    add_clock_option(parser)
    arguments = parser.parse_args(argv)
    clock = CLOCKS[arguments.clock]
    torch.set_num_threads(arguments.threads)
    one, batch = (torch.full((v,), arguments.frames, device=arguments.device) for v in (1, arguments.videos))
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} CPU thread(s), {arguments.clock} clock")
    print(
        f"videos of {arguments.frames} frames, width {arguments.dim}, ms a video, fastest of {arguments.repeats} runs\n"
    )
    print(f"| form | curve | from the similarity | {arguments.videos} videos at once | whole call |")
    print("|---|---|---|---|---|")
    slowest = 0.0
    for form, segmenter in _FORMS.items():
        for kind in ("random", "monotone", "constant"):
            curves = similarity_curves(kind, arguments.videos, arguments.frames, arguments.device)
            cls = class_vectors(kind, arguments.frames, arguments.dim, arguments.device)
            calls = (
                lambda segmenter=segmenter, curves=curves: segmenter.segment_rows(curves[:1], one),
                lambda segmenter=segmenter, curves=curves: segmenter.segment_rows(curves, batch),
                lambda segmenter=segmenter, cls=cls: segmenter.segment(cls, one),
            )
            alone, together, whole = (milliseconds(call, arguments.device, arguments.repeats, clock) for call in calls)
            together /= arguments.videos
            slowest = max(slowest, alone, together)
            print(f"| {form} | {kind} | {alone:.2f} | {together:.2f} | {whole:.2f} |", flush=True)
    verdict = "met" if slowest <= LIMIT_MS else "MISSED"
    print(f"\nlimit of {LIMIT_MS} ms a video from the similarity: {verdict}; the whole call has no limit")
    return 0 if slowest <= LIMIT_MS else 1


if __name__ == "__main__":
    run_and_exit(main)
