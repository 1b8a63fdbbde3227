"""Runs several reducers one after the other."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from components.interfaces import SegmentInput, SegmentReducer


class Sequential(SegmentReducer[tuple[Any, ...]]):
    """Runs several reducers one after the other; each reads what the one before has left.

    Its state has the state of each.

    Args:
        dim: Width of the tokens that the first one reads.
        reducers: Build the reducers, in their order, from the width of the tokens.

    Raises:
        ValueError: There is none, or one that reads full grids follows one that leaves tokens out.
    """

    def __init__(self, dim: int, *, reducers: Sequence[Callable[[int], SegmentReducer[Any]]]) -> None:
        super().__init__()
        if not reducers:
            raise ValueError("Sequential needs at least one reducer; for none leave the reducer out")
        built: list[SegmentReducer[Any]] = []
        for make in reducers:
            built.append(make(built[-1].out_dim if built else dim))
        for first, second in pairwise(built):
            if not first.gives_grid and not second.reads_kept_tokens:
                raise ValueError(
                    f"{type(second).__name__} reads full grids, but {type(first).__name__} before it leaves tokens "
                    "out: change their order, or remove one"
                )
        self.reducers = nn.ModuleList(built)
        self.out_dim = built[-1].out_dim
        self.gives_grid = built[-1].gives_grid
        self.reads_kept_tokens = built[0].reads_kept_tokens
        self.reads_saliency = any(reducer.reads_saliency for reducer in built)

    def forward(self, segment: SegmentInput, state: tuple[Any, ...] | None) -> tuple[SegmentInput, tuple[Any, ...]]:
        """Reduce one segment of every video; see ``SegmentReducer.forward``."""
        states = []
        for reducer, before in zip(self.reducers, state or [None] * len(self.reducers), strict=True):
            segment, after = reducer(segment, before)
            states.append(after)
        return segment, tuple(states)
