"""Queries that read the video in its order."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.readers.readouts.ordered_resampler import OrderedResampler
from components.readers.readouts.stored_frames import stored_frames
from components.readers.token_store import TokenStore, _joined
from tests.components.readers.reader_runs import DIM, OUT_DIM, make_segments, read, walk


def resampler(**options: Any) -> TokenStore:
    torch.manual_seed(0)
    readout = lambda dim, out_dim: OrderedResampler(dim, out_dim, **({"num_heads": 2} | options))  # noqa: E731
    return TokenStore(DIM, OUT_DIM, readout=readout).eval()


def frames_of_gradient(reader: TokenStore, query: int, length: int) -> list[int]:
    """The frames of which one visual token has a gradient."""
    segments = make_segments([[length]])
    tokens = segments[0].tokens.requires_grad_()
    read(reader, segments).tokens[0, query].sum().backward()
    assert tokens.grad is not None
    by_frame = tokens.grad[0].abs().sum(dim=1).view(length, -1).sum(dim=1)
    return by_frame.nonzero().flatten().tolist()


@pytest.mark.parametrize(("length", "num_queries"), [(6, 3), (5, 3), (2, 4), (1, 2), (4, 1)])
def test_each_query_sees_its_share_of_the_video_and_the_last_one_all(length: int, num_queries: int) -> None:
    for query in range(num_queries):
        last = -(-(query + 1) * length // num_queries)
        found = frames_of_gradient(resampler(num_queries=num_queries), query, length)
        assert found == list(range(last))
    assert frames_of_gradient(resampler(num_queries=num_queries, ordered=False), 0, length) == list(range(length))


def test_the_first_queries_give_the_same_whether_more_are_shown_or_not() -> None:
    segments = make_segments([[3, 2], [4]])
    every = read(resampler(num_queries=8, ordered=False), segments).tokens
    some = read(resampler(num_queries=8, ordered=False, shown=3), segments).tokens
    torch.testing.assert_close(some, every[:, :3])
    reader = resampler(num_queries=8, ordered=False)
    torch.testing.assert_close(reader.read(walk(reader, segments), budget=3).tokens, some)


def test_training_draws_the_number_of_queries_from_powers_of_two_and_all() -> None:
    reader = resampler(num_queries=12, elastic=True).train()
    state = walk(reader, make_segments([[2]]))
    assert {reader.read(state).tokens.shape[1] for _ in range(60)} == {2, 4, 8, 12}
    assert reader.eval().read(state).tokens.shape[1] == 12


@pytest.mark.parametrize("keys", ["position", "content"])
def test_keys_of_positions_alone_do_not_depend_on_what_a_token_shows(keys: Any) -> None:
    reader = resampler(num_queries=2, ordered=False, keys=keys)
    found: list[Tensor] = []
    reader.readout.key.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    [segment] = make_segments([[3]])
    for tokens in (segment.tokens, segment.tokens.flip(2)):
        read(reader, [segment._replace(tokens=tokens)])
    assert torch.equal(*found) == (keys == "position")


def test_frames_are_counted_over_segments_of_unequal_length() -> None:
    reader = resampler(num_queries=2)
    state = walk(reader, make_segments([[2, 1], [1, 3]]))
    stored = _joined(state)
    frames = stored_frames(stored)
    assert frames.number.tolist() == [3, 4]
    for video, expected in enumerate(([0, 1, 2], [0, 1, 2, 3])):
        assert frames.of_token[video][stored.mask[video]].unique().tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_queries": 0}, "num_queries must be at least 1"),
        ({"num_queries": 2, "shown": 3}, "shown at most that"),
        ({"keys": "both"}, "keys must be one of"),
        ({"num_heads": 5}, "not divisible by num_heads=5"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampler(**options)
