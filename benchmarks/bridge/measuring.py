"""Measures time and memory of the forms, and compares their results."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.bridge.forms import FORMS, Widths, make_videos
from benchmarks.command_options import CLOCKS
from benchmarks.parity.comparison import largest_error, relative_error
from benchmarks.resident_memory import PeakResidentBytes
from components.interfaces import VisualReader

_FRAMES_IN_FLOAT64 = 64


class Case(NamedTuple):
    """A form, and the number of videos and frames of one call."""

    form: str
    num_videos: int
    num_frames: int


class Seconds(NamedTuple):
    """Fastest call."""

    forward: float
    both: float


class Peaks(NamedTuple):
    """Bytes beyond weights and features."""

    forward: int
    both: int


@torch.no_grad()
def run_forward(form: str, bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    """Visual tokens, without gradients."""
    return FORMS[form].read(bridge, videos)


def run_both(form: str, bridge: VisualReader[Any], videos: Tensor) -> None:
    """Forward and backward; gradients of the bridge's weights."""
    bridge.zero_grad()
    tokens = FORMS[form].read(bridge, videos)
    tokens.backward(_pulls(tokens))  # type: ignore[no-untyped-call]


def _pulls(tokens: Tensor) -> Tensor:
    """Gradients that differ between tokens and between channels; padding after a video gets some too."""
    by_token = torch.linspace(1.0, 2.0, tokens.shape[1])[:, None]
    return (by_token * torch.linspace(-1.0, 1.0, tokens.shape[2])).expand_as(tokens)


def measure_seconds(
    cases: Sequence[Case], widths: Widths, videos: Tensor, rounds: int, clock: str
) -> dict[Case, Seconds]:
    """Run the cases alternately, forward and both passes; the fastest time of each by one of ``CLOCKS``."""
    bridges = {case: FORMS[case.form].build(widths) for case in cases}
    fastest = dict.fromkeys(cases, Seconds(float("inf"), float("inf")))
    for _ in range(rounds):
        for case, bridge in bridges.items():
            read = videos[: case.num_videos]
            forward = _seconds(CLOCKS[clock], run_forward, case.form, bridge, read)
            both = _seconds(CLOCKS[clock], run_both, case.form, bridge, read)
            bridge.zero_grad()
            fastest[case] = Seconds(min(forward, fastest[case].forward), min(both, fastest[case].both))
    return fastest


def _seconds(clock: Callable[[], float], work: Callable[..., object], *arguments: Any) -> float:
    start = clock()
    work(*arguments)
    return clock() - start


def measure_peaks(case: Case, widths: Widths, threads: int) -> Peaks:
    """Peak memory of the forward pass and of both passes; call it in a new process."""
    torch.set_num_threads(threads)
    bridge = FORMS[case.form].build(widths)
    videos = make_videos(case.num_videos, case.num_frames, widths.dim)
    with PeakResidentBytes() as forward:
        run_forward(case.form, bridge, videos)
    with PeakResidentBytes() as both:
        run_both(case.form, bridge, videos)
    return Peaks(forward.growth, both.growth)


class Differences(NamedTuple):
    """How far a form is from its original on one video, relative."""

    tokens: float
    gradients: float


def compare_with_original(form: str, widths: Widths, videos: Tensor) -> Differences:
    """Compare a form that should give its original's numbers, on the first video.

    Gradients that jump are compared in float64, where no activation is as near to zero as rounding; of a part of the
    video, because float64 takes twice the memory.
    """
    video = videos[:1]
    exact = video[:, :_FRAMES_IN_FLOAT64].double() if FORMS[form].has_relu else video
    tokens, gradients = [], []
    for name in (FORMS[form].original, form):
        bridge = FORMS[name].build(widths)
        tokens.append(run_forward(name, bridge, video))
        run_both(name, bridge.to(exact.dtype), exact)
        gradients.append({weight: each.grad for weight, each in bridge.named_parameters() if each.grad is not None})
    theirs, ours = gradients
    # The true gradient of a key's bias is zero; its values are rounding errors.
    names = [name for name in theirs if not name.endswith("key.bias")]
    gradient_error = max(relative_error(ours[name], theirs[name]) for name in names)
    return Differences(largest_error(tokens[1], tokens[0]) / float(tokens[0].abs().max()), gradient_error)
