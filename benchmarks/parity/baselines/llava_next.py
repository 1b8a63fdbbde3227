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

_KINDS: dict[str, Newlines] = {"grid": "rows", "frame": "frames", "no_token": "none"}


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    options, features = case.options, case.inputs["feat"]
    if "faster_token" in case.inputs:
        return _slow_fast(case)
    if "kind" in options:
        return [case.output_check("tokens", _with_newlines(case))]
    return [case.output_check("tokens", pooled(features, options["mode"], options["side"], options["stride"]))]


def _with_newlines(case: RecordedCase) -> Tensor:
    features, newline, kind = case.inputs["feat"], case.inputs["newline"], case.options["kind"]
    if kind == "one_token":
        return torch.cat([features.flatten(0, 1), newline[None]])
    tokens = with_newlines(features, newline, _KINDS[kind])
    return tokens if kind == "frame" or case.options.get("fast") else tokens.flatten(0, 1)


def _slow_fast(case: RecordedCase) -> Sequence[Check]:
    options, inputs = case.options, case.inputs
    checks, first = [], 0
    for number, length in enumerate(options["frames"]):
        features = inputs["feat"][first : first + length]
        first += length
        stride = options["stride"]
        for name, side in ((f"slow{number}", stride), (f"fast{number}", 2 * stride)):
            checks.append(case.output_check(name, pooled(features, options["mode"], options["side"], side)))
        width = features.shape[2]
        readout = SlowFast(
            width, width, every=options["faster_token_stride"], slow_stride=stride, fast_stride=2 * stride
        )
        readout.projection = nn.Sequential()  # the recorded features are projected already
        readout.newline, readout.frame_end = nn.Parameter(inputs["newline"]), nn.Parameter(inputs["faster_token"])
        reader = TokenStore(width, width, readout=lambda _dim, _out_dim, made=readout: made)
        mask = torch.ones(1, length, dtype=torch.bool)
        visual = reader.read(reader(SegmentInput.from_grid(features[None], mask, torch.zeros(1, length).long()), None))
        checks.append(case.output_check(f"tokens{number}", visual.tokens[0][visual.mask[0]]))
    return checks
