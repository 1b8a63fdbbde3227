"""The section of the results page."""

import platform
from collections.abc import Sequence
from datetime import date

import torch

from benchmarks.full_size.building import TRAINS
from benchmarks.full_size.inference import InferenceRow
from benchmarks.full_size.sizes import Workload
from benchmarks.full_size.training import TrainingRow
from benchmarks.results_page import table

SECTION = "full size"
ANCHOR = "the-7b-shape-on-one-device"
_NO_MEMORY = "out of memory"
_TRAINING = ["trains", "million weights", "bridge", "frames", "videos", "s a step", "peak GiB"]
_TRAINING += ["model TFLOP: encoder + bridge + language model", "TFLOP/s", "MFU", "loss"]
_INFERENCE = ["video", "bridge", "most frames", "limit", "segments", "s to read", "frames/s", "s to answer"]
_INFERENCE += ["peak GiB", "MFU"]


def device_name(device: torch.device) -> str:
    """What to call the device in a table."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def describe(
    training: Sequence[TrainingRow],
    inference: Sequence[InferenceRow],
    *,
    workload: Workload,
    peak: float | None,
    command: str,
    device: str,
    made: date,
    tiny: bool,
) -> str:
    """Both tables and what they mean.

    Args:
        training: Rows of the first table.
        inference: Rows of the second.
        workload: What was measured.
        peak: Operations a second that the device does at most in bfloat16; None if that is not known.
        command: What made the tables.
        device: Its name.
        made: When.
        tiny: Whether the sizes are not those of the 7B shape.
    """
    known = "not known, so MFU is left out" if peak is None else f"{peak / 1e12:g} TFLOP/s"
    shown = [name for name in TRAINS if any(row.trains == name for row in training)]
    title = "Tiny sizes: shows that the benchmark runs, and measures nothing" if tiny else "The 7B shape on one device"
    sizes = "tiny sizes, put together as" if tiny else "the sizes that"
    joined = "does" if tiny else "has with the published parts"
    lines = [
        f"## {title}",
        "",
        f"`{command}` ({device}; {made}; torch {torch.__version__}). Random weights of {sizes}",
        f"`configs/model/videollamb_7b.yaml` {joined}, drawn on the device, computed in bfloat16;",
        f"frames are noise. Peak in bfloat16: {known}. Operations are counted as docs/monitoring.md says: what",
        "activation checkpointing computes twice counts once. Peaks are of tensors on a GPU, of the process on a CPU.",
        "",
        f"A training step: forward, loss, backward with activation checkpointing, AdamW; {workload.text_tokens} tokens",
        f"of text a video, {workload.answer_tokens} of them scored; median of {workload.steps} steps after",
        f"{workload.warm_up} that warm up. Encoders are frozen. What trains:",
        "",
        *(f"- *{name}*: {TRAINS[name]}" for name in shown),
        "",
        *table(_TRAINING, [training_cells(row, peak) for row in training]),
        "",
        "The longest video that fits for inference, one frame a second, everything in bfloat16. *Whole*: all frames",
        "are on the device at once, their features too, and are cut and read as the configuration says. *Streamed*:",
        "a few frames after the other through a StreamingSession, and the bridge reads every frame, in segments of at",
        "most as many as it reads of one when whole. MFU is that of encoder and bridge until the language model can",
        f"see. Found to {workload.grain} frames; *cap*: a longer one was not tried. The selective bridge has its gate",
        "open: every segment is remembered.",
        "",
        *table(_INFERENCE, [inference_cells(row, peak) for row in inference]),
    ]
    return "\n".join(lines)


def headline(training: Sequence[TrainingRow], inference: Sequence[InferenceRow]) -> str:
    """The main figures, for the table at the top of the results page: what the first step costs, the longest video."""
    first = training[0]
    step = _NO_MEMORY
    if first.cost is not None:
        step = f"{_figure(first.cost.seconds)} s, {first.cost.peak_gib:.2f} GiB"
    longest = max(row.frames for row in inference)
    case = f"trains {first.trains}, {first.form} bridge, {first.videos} videos of {first.frames} frames"
    return f"step that {case}: {step}; longest video: {longest:,} frames"


def training_cells(row: TrainingRow, peak: float | None) -> list[str]:
    """One line of the first table."""
    case = [row.form, str(row.frames), str(row.videos)]
    if row.cost is None:
        return [row.trains, "-", *case, _NO_MEMORY, *["-"] * (len(_TRAINING) - len(case) - 3)]
    cost = row.cost
    flops = " + ".join(_figure(part / 1e12) for part in cost.flops)
    return [
        row.trains,
        f"{cost.trainable / 1e6:,.2f}",
        *case,
        _figure(cost.seconds),
        f"{cost.peak_gib:.2f}",
        flops,
        _figure(cost.flops.total / cost.seconds / 1e12),
        _share(cost.flops.total / cost.seconds, peak),
        f"{cost.loss:.2f}",
    ]


def inference_cells(row: InferenceRow, peak: float | None) -> list[str]:
    """One line of the second table."""
    reading = row.reading
    if reading is None:
        return [row.way, row.form, "-", _NO_MEMORY, *["-"] * (len(_INFERENCE) - 4)]
    return [
        row.way,
        row.form,
        f"{row.frames:,}",
        "cap" if row.is_most else "memory",
        str(len(reading.groups)),
        _figure(reading.seconds),
        _figure(row.frames / reading.seconds),
        _figure(reading.answer_seconds),
        f"{reading.peak_gib:.2f}",
        _share(row.flops / reading.seconds, peak),
    ]


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _share(achieved: float, peak: float | None) -> str:
    return "-" if peak is None else f"{achieved / peak:.1%}"
