"""PLLaVA: adaptive pooling of projected patches over time and space."""

from collections.abc import Sequence

import torch

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check
from components.interfaces import SegmentInput
from components.readers.readouts.pooled_grid import PooledGrid
from components.readers.token_store import TokenStore


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare the visual tokens of one or several videos of equal length."""
    options, inputs = case.options, case.inputs
    patches = inputs["features"].unflatten(0, (options["batch_size"], -1))  # [V, T, N, D]
    width = patches.shape[-1]
    readout = PooledGrid(
        width, len(inputs["b2"]), shape=tuple(options["pooling_shape"]), stretched_to=options["num_frames"]
    )
    names = {"0.weight": "w1", "0.bias": "b1", "2.weight": "w2", "2.bias": "b2"}
    readout.projection.load_state_dict({ours: inputs[theirs] for ours, theirs in names.items()})
    reader = TokenStore(width, len(inputs["b2"]), readout=lambda _dim, _out_dim: readout)
    mask = torch.ones(patches.shape[:2], dtype=torch.bool)
    segment = SegmentInput.from_grid(patches, mask, torch.zeros(patches.shape[:2]).long())
    return [case.output_check("tokens", reader.read(reader(segment, None)).tokens)]
