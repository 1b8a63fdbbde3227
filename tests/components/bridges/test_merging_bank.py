import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.bridges.merging_bank import MergingBank
from components.merging.position_bank import PositionBank, merge_by_position
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, read, real, walk


def bridge(**options: int | bool) -> MergingBank:
    torch.manual_seed(0)
    return MergingBank(DIM, OUT_DIM, num_queries=3, num_heads=2, **options)  # type: ignore[arg-type]


def merged_by_hand(entries: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Merge one video ``[M, N, D]`` with slow loops."""
    columns, column_sizes = [], []
    for position in range(entries.shape[1]):
        column, size = list(entries[:, position]), sizes[:, position].tolist()
        similarity = [
            float(functional.cosine_similarity(column[at], column[at + 1], dim=0)) for at in range(len(column) - 1)
        ]
        at = similarity.index(max(similarity))
        total = size[at] + size[at + 1]
        column[at : at + 2] = [(size[at] * column[at] + size[at + 1] * column[at + 1]) / total]
        size[at : at + 2] = [total]
        columns.append(torch.stack(column))
        column_sizes.append(torch.tensor(size))
    return torch.stack(columns, dim=1), torch.stack(column_sizes, dim=1)


def test_every_position_merges_as_a_slow_loop_does() -> None:
    entries, sizes = torch.randn(2, 6, 5, 4), torch.randint(1, 5, (2, 6, 5)).float()
    merged, merged_sizes = merge_by_position(entries, sizes, torch.tensor([6, 6]))
    for video in range(2):
        expected, expected_sizes = merged_by_hand(entries[video], sizes[video])
        torch.testing.assert_close(merged[video], expected)
        torch.testing.assert_close(merged_sizes[video], expected_sizes)


def test_positions_merge_at_times_of_their_own() -> None:
    entries = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])[None]
    _, sizes = merge_by_position(entries, torch.ones(1, 3, 2), torch.tensor([3]))
    assert sizes.tolist() == [[[2.0, 1.0], [1.0, 2.0]]]


@pytest.mark.parametrize("as_published", [False, True])
def test_sizes_count_every_frame_and_the_bank_stays_bounded(as_published: bool) -> None:
    state = walk(bridge(num_memory=3, as_published=as_published), make_segments([[3] * 5, [2]]))
    seen = 3 + as_published
    assert state.frames.num_real.tolist() == [seen, 2]
    assert state.frames.sizes.sum(dim=1).tolist() == [[15.0] * 4, [2.0] * 4]
    assert [bank.num_real.tolist() for bank in state.queries] == [[3, 1]] * 2
    assert state.frames.entries.shape[1] == 4


def test_the_bank_keeps_the_weighted_mean_of_all_frames() -> None:
    segments = make_segments([[4, 4, 1]])
    frames = walk(bridge(num_memory=2), segments).frames
    mean = (frames.entries * frames.sizes[..., None]).sum(dim=1) / 9
    reader = bridge()
    expected = torch.cat([segment.grid(reader)[0, : int(segment.frame_mask.sum())] for segment in segments]).mean(dim=0)
    torch.testing.assert_close(mean[0], expected)


def test_the_past_of_the_queries_matters_and_does_not_without_their_bank() -> None:
    with_bank, without = bridge(num_memory=9), bridge(num_memory=9, query_bank=False)
    for reader, matters in ((with_bank, True), (without, False)):
        one, other = (read(reader, make_segments([cut])) for cut in ([2, 2], [4]))
        assert torch.allclose(real(one, 0), real(other, 0), atol=1e-5) != matters


def test_layers_after_the_first_read_the_bank_as_often_as_is_asked() -> None:
    assert [layer.cross_attention is None for layer in bridge(num_layers=3).layers] == [False, True, False]
    assert all(layer.cross_attention is not None for layer in bridge(context_every=1).layers)


def test_no_gradient_reaches_earlier_segments_as_published() -> None:
    segments = make_segments([[2, 2]])
    for segment in segments:
        segment.tokens.requires_grad_()
    read(bridge(num_memory=9, as_published=True), segments).tokens.sum().backward()  # type: ignore[no-untyped-call]
    assert segments[0].tokens.grad is None or not bool(segments[0].tokens.grad.any())
    assert bool(segments[1].tokens.grad.any())


def test_an_empty_bank_has_no_real_token() -> None:
    bank = PositionBank.empty(torch.randn(2, 3, 4), 5)
    assert not bank.token_mask.any()
    assert bank.token_mask.shape == (2, 15)


def test_half_precision_stays_half_precision() -> None:
    reader = bridge(num_memory=2).to(torch.bfloat16)
    halves = [segment._replace(tokens=segment.tokens.bfloat16()) for segment in make_segments(LENGTHS)]
    assert read(reader, halves).tokens.dtype == torch.bfloat16


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0, 3, 2, 2 and 2"):
        bridge(num_memory=0)
    with pytest.raises(ValueError, match="need an even width, got 7"):
        MergingBank(7, OUT_DIM)
    with pytest.raises(ValueError, match="width 16 is not divisible by 3 heads"):
        MergingBank(DIM, OUT_DIM, num_heads=3)


def test_one_entry_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="needs two entries or more, got 1"):
        merge_by_position(torch.randn(1, 1, 2, 3), torch.ones(1, 1, 2), torch.tensor([1]))
