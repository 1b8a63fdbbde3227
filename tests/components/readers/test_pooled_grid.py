"""Patches pooled over time and space."""

from functools import partial
from typing import Any

import pytest
import torch

from components.readers.readouts.pooled_grid import PooledGrid, time_windows
from components.readers.token_store import TokenStore
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, read


def store(**options: Any) -> TokenStore:
    torch.manual_seed(0)
    return TokenStore(DIM, OUT_DIM, readout=partial(PooledGrid, **options))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 1, 1), (4, 2, 1)])
def test_pooling_is_adaptive_pooling_over_time_rows_and_columns(length: int, shape: tuple[int, int, int]) -> None:
    reader, segments = store(shape=shape), make_segments([[length]])
    projected = reader.readout.projection(segments[0].tokens[0]).unflatten(0, (length, 2, 2))
    expected = torch.nn.functional.adaptive_avg_pool3d(projected.movedim(3, 0), shape)
    torch.testing.assert_close(read(reader, segments).tokens[0], expected.flatten(1).T)


@pytest.mark.parametrize(("length", "stretched_to", "number"), [(3, 8, 4), (5, 8, 8), (8, 8, 4), (10, 8, 5), (1, 4, 2)])
def test_the_published_stretching_repeats_frames_and_loses_the_last(
    length: int, stretched_to: int, number: int
) -> None:
    frames = torch.arange(float(length))
    if length < stretched_to:
        frames = frames.repeat_interleave(stretched_to // length + 1)[:stretched_to]
    expected = torch.nn.functional.adaptive_avg_pool1d(frames[None], number)[0]
    shares = time_windows(torch.ones(1, length, dtype=torch.bool), number, stretched_to)[0]
    torch.testing.assert_close(shares @ torch.arange(float(length)), expected)


def test_masked_frames_between_real_ones_belong_to_no_window() -> None:
    is_real = torch.tensor([[True, False, True, True, False, True]])
    shares = time_windows(is_real, 2)[0]
    assert shares.tolist() == [[0.5, 0, 0.5, 0, 0, 0], [0, 0, 0, 0.5, 0, 0.5]]


def test_a_box_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="three positive numbers"):
        store(shape=(2, 0, 2))
