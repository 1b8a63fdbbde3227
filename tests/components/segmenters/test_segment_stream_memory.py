"""The stream of SceneTilling holds what its rule needs and no more, and cuts where the rule with all gaps cuts."""

import math
import pickle
from typing import NamedTuple

import pytest
import torch

from components.segmenters import segment_streams
from components.segmenters.segment_streams import SceneTillingStream

BOUNDS = [None, 1, 4, 16]


class OpenGap(NamedTuple):
    gap: int
    rise: float
    similarity: float


class RuleWithAllGaps:
    """The causal rule as it is written, with every open gap and every final depth of the stream."""

    def __init__(self, alpha: float, max_segment_frames: int | None) -> None:
        self.alpha, self.max_segment_frames = alpha, max_segment_frames
        self.newest, self.left_peak = -math.inf, -math.inf
        self.open: list[OpenGap] = []
        self.depths: list[float] = []
        self.declared: list[int] = []
        self.num_gaps = 0

    def add_frame(self, similarity: float | None) -> None:
        if similarity is not None:
            if not similarity >= self.newest:
                self.end_rise(self.newest)
            if not self.newest >= similarity:
                self.left_peak = similarity
            self.open.append(OpenGap(self.num_gaps, self.left_peak - similarity, similarity))
            self.newest = similarity
            self.num_gaps += 1
        last = self.declared[-1] if self.declared else -1
        if self.max_segment_frames is not None and self.num_gaps - last >= self.max_segment_frames:
            self.declared.append(self.num_gaps)

    def end_rise(self, right_peak: float) -> None:
        final = [(each.gap, each.rise + (right_peak - each.similarity)) for each in self.open]
        self.open = []
        self.depths += [depth for _, depth in final]
        count = len(self.depths)
        if count < 2:
            return
        mean = math.fsum(self.depths) / count
        squares = math.fsum((depth - mean) ** 2 for depth in self.depths)
        threshold = mean + self.alpha * math.sqrt(squares / (count - 1))
        for gap, depth in final:
            if depth > threshold and gap > (self.declared[-1] if self.declared else -1):
                self.declared.append(gap)


def push_all(stream: SceneTillingStream, curve: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Push a frame for every similarity to the frame before, and the first one where there is none."""
    if stream._previous is None:
        stream.push(torch.ones(1))
    similarities = iter(curve)
    monkeypatch.setattr(segment_streams, "adjacent_similarity", lambda _pair: next(similarities))
    for _ in curve:
        stream.push(torch.ones(1))


def random_curve(seed: int, length: int = 300) -> list[float]:
    """Similarities of a video: noise, still scenes, slow rises and falls, and some that are no number."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    while sum(map(len, pieces)) < length:
        count = int(torch.randint(1, 40, (), generator=generator))
        noise = 0.2 * torch.rand(count, generator=generator) + 0.7
        kind = int(torch.randint(4, (), generator=generator))
        pieces.append([noise, noise.sort().values, noise.sort(descending=True).values, noise[:1].expand(count)][kind])
    curve: list[float] = torch.cat(pieces)[:length].tolist()
    if seed % 7 == 0:
        curve[length // 2] = math.nan
    return curve


@pytest.mark.parametrize("max_segment_frames", BOUNDS)
@pytest.mark.parametrize("alpha", [-0.531, 0.471, 1.317])
def test_boundaries_are_those_of_the_rule_with_all_gaps(
    alpha: float, max_segment_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_declared = 0
    for seed in range(40):
        curve = random_curve(seed)
        rule = RuleWithAllGaps(alpha, max_segment_frames)
        for similarity in [None, *curve]:
            rule.add_frame(similarity)
        stream = SceneTillingStream(alpha, max_segment_frames)
        push_all(stream, curve, monkeypatch)
        assert stream.declared() == rule.declared
        num_declared += len(rule.declared)
    assert num_declared > 400


def bytes_of(stream: SceneTillingStream) -> int:
    """All that the stream holds but its boundaries, which take 8 bytes each."""
    return len(pickle.dumps(stream)) - 8 * len(stream.declared())


@pytest.mark.parametrize(
    ("name", "max_segment_frames"),
    [("constant", None), ("constant", 16), ("rising", 16), ("falling", None), ("saw", None), ("random", 16)],
)
def test_memory_is_the_same_after_a_hundred_times_as_many_frames(
    name: str, max_segment_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = torch.linspace(-1, 1, 100_000, dtype=torch.float64)
    curve = {
        "constant": torch.ones(100_000),
        "rising": steps,
        "falling": -steps,
        "saw": torch.arange(100_000) % 2,
        "random": torch.rand(100_000, generator=torch.Generator().manual_seed(0)),
    }[name].tolist()
    stream, most = SceneTillingStream(0.5, max_segment_frames), list[int]()
    for part in (curve[:1_000], curve[1_000:]):
        push_all(stream, part, monkeypatch)
        most.append(bytes_of(stream))
    assert most[1] < most[0] + 1_500  # an open segment of up to 16 gaps, and more digits


@pytest.mark.parametrize("max_segment_frames", BOUNDS)
def test_boundaries_can_be_asked_from_a_segment_on(
    max_segment_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = SceneTillingStream(0.5, max_segment_frames)
    push_all(stream, random_curve(1), monkeypatch)
    every = stream.declared()
    assert len(every) > 5
    assert [stream.declared(first) for first in (0, 3, len(every))] == [every, every[3:], []]
