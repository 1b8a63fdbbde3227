"""How long SceneTilling takes for one long video: ``python -m benchmarks.scene_tiling``.

Times both forms on similarity curves that are random, monotone and constant (a definition that climbs step by step is
quadratic on the last two), from the similarity curve alone and as a whole call from the class vectors.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from components.segmenters.scene_tiling import SceneTilling

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
    # Neighbours turned by an angle that shrinks (or stays) frame by frame, in the plane of the first two axes.
    turn = torch.linspace(1.0, 0.1, num_frames) if kind == "monotone" else torch.full((num_frames,), 0.1)
    angle = turn.double().cumsum(0)
    vectors = torch.zeros(num_frames, dim)
    vectors[:, 0], vectors[:, 1] = angle.cos(), angle.sin()
    return vectors.to(device)


def similarity_curve(kind: str, num_frames: int, device: str) -> Tensor:
    """Similarity of every gap, ``[1, T - 1]``; see ``class_vectors`` for the kinds."""
    if kind == "random":
        curve = torch.rand(num_frames - 1, generator=torch.Generator().manual_seed(0))
    else:
        curve = torch.linspace(0.0, 0.9 if kind == "monotone" else 0.0, num_frames - 1)
    return curve[None].to(device)


def milliseconds(call: Callable[[], Tensor], device: str, repeats: int) -> float:
    """Median time of a call, its result waited for."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
    return median(times[2:])


def main() -> None:
    """Print one line per form and curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1024, help="width of the class vectors")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    counts = torch.tensor([arguments.frames], device=arguments.device)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} CPU thread(s)")
    print(f"one video of {arguments.frames} frames, width {arguments.dim}, median of {arguments.repeats} runs\n")
    print("| form | curve | from the similarity, ms | whole call, ms |\n|---|---|---|---|")
    for form, segmenter in _FORMS.items():
        for kind in ("random", "monotone", "constant"):
            curve = similarity_curve(kind, arguments.frames, arguments.device)
            cls = class_vectors(kind, arguments.frames, arguments.dim, arguments.device)
            calls = (
                lambda segmenter=segmenter, curve=curve: segmenter.segment_rows(curve, counts),
                lambda segmenter=segmenter, cls=cls: segmenter.segment(cls, counts),
            )
            scoring, whole = (milliseconds(call, arguments.device, arguments.repeats) for call in calls)
            print(f"| {form} | {kind} | {scoring:.2f} | {whole:.2f} |", flush=True)


if __name__ == "__main__":
    main()
