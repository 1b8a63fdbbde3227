"""LLaMA-VID: the context token and the content tokens of a frame."""

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check
from components.interfaces import Questions, SegmentInput
from components.readers.readouts.context_token import ContextToken
from components.readers.token_store import TokenStore


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare frames, each with words of its own: a video of one frame for each, and a question about it."""
    inputs = case.inputs
    words, patches = inputs["text_q"], inputs["vis"]  # [F, K, C], [F, N, C]
    kind = case.options.get("compress_type")
    content, _, grid = ("all", "", "") if kind is None else kind.partition(":")
    width, out_dim = patches.shape[2], len(inputs["mm_b"])
    readout = ContextToken(width, out_dim, content=content, grid=int(grid or 1))  # type: ignore[arg-type]
    readout.query = nn.Sequential()  # the recorded words have the width of the patches
    for part, name in ((readout.key, "key"), (readout.value, "val"), (readout.projection, "mm")):
        part.weight, part.bias = nn.Parameter(inputs[f"{name}_w"]), nn.Parameter(inputs[f"{name}_b"])
    reader = TokenStore(width, out_dim, readout=lambda _dim, _out_dim: readout)
    mask = torch.ones(len(patches), 1, dtype=torch.bool)
    segment = SegmentInput.from_grid(patches[:, None], mask, torch.zeros(len(patches), 1).long())
    about = torch.arange(len(patches))[:, None]
    questions = Questions(words, torch.ones(words.shape[:2], dtype=torch.bool), about)
    return [case.output_check("tokens", reader.read(reader(segment, None), questions).tokens)]
