"""LLaVA-NeXT: pooling by stride, newlines, and slow and fast frames."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.parity.baselines.merging import pooled
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check
from components.interfaces import SegmentInput
from components.readers.readouts.slow_fast import Newlines, SlowFast, with_newlines
from components.readers.token_store import TokenStore

_KINDS: dict[str, Newlines] = {"grid": "rows", "frame": "frames", "one_token": "end", "no_token": "none"}


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    options, features = case.options, case.inputs["feat"]
    if "frames" in options:
        return _several_videos(case)
    if "kind" in options:
        return [case.output_check("tokens", _with_newlines(case))]
    return [case.output_check("tokens", pooled(features, options["mode"], options["stride"]))]


def _with_newlines(case: RecordedCase) -> Tensor:
    features, newline, kind = case.inputs["feat"], case.inputs.get("newline"), _KINDS[case.options["kind"]]
    theirs = case.outputs["tokens"]
    if case.options.get("fast") or (kind in ("frames", "none") and theirs.dim() == 3):
        return with_newlines(features, newline, kind)
    readout = SlowFast(features.shape[2], features.shape[2], every=1, newlines=kind)
    tokens = _shown(readout, features, newline)
    return tokens.view(theirs.shape) if tokens.numel() == theirs.numel() else tokens


def _several_videos(case: RecordedCase) -> Sequence[Check]:
    """Compare each video; with fast frames the stride doubles for each further one, as published."""
    options, inputs = case.options, case.inputs
    ours: dict[str, Tensor] = {}
    stride = options["stride"]
    for number, features in enumerate(torch.split(inputs["feat"], options["frames"])):
        strides = {f"slow{number}": stride}
        if options.get("fast"):
            strides[f"fast{number}"] = 2 * stride
        found = {name: pooled(features, options["mode"], each) for name, each in strides.items()}
        if "faster_token" in inputs:
            readout = SlowFast(
                features.shape[2],
                features.shape[2],
                every=options["faster_token_stride"],
                slow_stride=stride,
                fast_stride=2 * stride,
                reduction=options["mode"],
            )
            found[f"tokens{number}"] = _shown(readout, features, inputs["newline"], inputs["faster_token"])
        ours |= found
        stride *= 2 if options.get("fast") else 1
    return [case.output_check(name, ours[name]) for name in case.outputs]


def _shown(readout: SlowFast, features: Tensor, newline: Tensor | None, frame_end: Tensor | None = None) -> Tensor:
    """What the readout gives of one video, ``[Q, E]``."""
    readout.projection = nn.Sequential()  # the recorded features are projected already
    if newline is not None and readout.newline is not None:
        readout.newline = nn.Parameter(newline)
    if frame_end is not None:
        readout.frame_end = nn.Parameter(frame_end)
    num_frames, _, width = features.shape
    reader = TokenStore(width, width, readout=lambda _dim, _out_dim: readout)
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    segment = SegmentInput.from_grid(features[None], mask, torch.zeros(1, num_frames).long())
    visual = reader.read(reader(segment, None))
    return visual.tokens[0][visual.mask[0]]
