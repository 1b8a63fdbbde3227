"""Tokens merged by bipartite matching, beside a slow form of the definition."""

import pytest
import torch
from torch import Tensor

from components.merging.bipartite import MergedTokens, merge_similar, merged_to


def slow_merge(tokens: Tensor, sizes: Tensor, number: int, *, weighted: bool) -> tuple[list[Tensor], list[float]]:
    """One round on one row, token by token."""
    normed = torch.nn.functional.normalize(tokens, dim=1)
    sources, targets = range(0, len(tokens), 2), range(1, len(tokens), 2)
    best = {s: max(targets, key=lambda t, s=s: (float(normed[s] @ normed[t]), -t)) for s in sources} if targets else {}
    order = sorted(best, key=lambda s: (-float(normed[s] @ normed[best[s]]), s))
    joining = order[: min(number, len(tokens) // 2)]
    found, counts = [tokens[s] for s in order if s not in joining], [float(sizes[s]) for s in order if s not in joining]
    for t in targets:
        members = [t, *(s for s in joining if best[s] == t)]
        weights = sizes[members] if weighted else torch.ones(len(members))
        found.append((tokens[members] * weights[:, None]).sum(dim=0) / weights.sum())
        counts.append(float(sizes[members].sum()))
    return found, counts


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("count", "number"), [(9, 3), (8, 4), (7, 9), (2, 1), (1, 1), (6, 0)])
def test_a_round_is_the_one_of_the_definition_whatever_stands_behind_the_real_tokens(
    count: int, number: int, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randn(2, 10, 4, generator=generator)
    sizes = torch.randint(1, 4, (2, 10), generator=generator).float()
    before = MergedTokens.of_tokens(tokens, torch.tensor([count, 10]))._replace(sizes=sizes)
    merged = merge_similar(before, torch.tensor([number, 2]), weighted=weighted)
    for row, (real, joining) in enumerate(((count, number), (10, 2))):
        expected, counts = slow_merge(tokens[row, :real], sizes[row, :real], joining, weighted=weighted)
        if joining == 0 or real == 1:
            expected, counts = list(tokens[row, :real]), sizes[row, :real].tolist()
        assert int(merged.num_real[row]) == len(expected)
        torch.testing.assert_close(merged.tokens[row, : len(expected)], torch.stack(expected))
        assert merged.sizes[row, : len(counts)].tolist() == counts


def test_halving_leaves_as_many_as_wanted_and_counts_every_token_once() -> None:
    tokens = torch.randn(3, 21, 4, generator=torch.Generator().manual_seed(0))
    count, wanted = torch.tensor([21, 5, 0]), torch.tensor([4, 5, 1])
    merged = merged_to(MergedTokens.of_tokens(tokens, count), wanted)
    assert merged.num_real.tolist() == [4, 5, 0]
    assert (merged.sizes * merged.mask).sum(dim=1).tolist() == [21.0, 5.0, 0.0]
    total = (merged.tokens * merged.sizes[..., None])[0, :4].sum(dim=0)
    torch.testing.assert_close(total, tokens[0].sum(dim=0))  # weighted means keep the sum
    torch.testing.assert_close(merged.tokens[1, :5], tokens[1, :5])  # a row that is short enough stays as it is


def test_a_mean_takes_the_place_of_its_target_and_places_can_be_sorted() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.05]]])
    merged = merge_similar(MergedTokens.of_tokens(tokens, torch.tensor([4])), torch.tensor([1]))
    assert merged.place[0, :3].tolist() == [0, 1, 3]
    assert sorted(merged.place[0].tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(merged.in_order().tokens[0, 2], torch.tensor([1.0, 0.075]))


def test_heads_compare_the_mean_of_parts_of_a_vector() -> None:
    tokens = torch.tensor([[[1.0, -1.0], [2.0, -2.0], [0.0, 1.0], [3.0, 1.0]]])
    merged = merge_similar(MergedTokens.of_tokens(tokens, torch.tensor([4])), torch.tensor([1]), heads=2)
    assert merged.place[0, :3].tolist() == [0, 1, 3]  # the third joins the fourth: both have positive means


def test_autocast_changes_neither_the_choice_nor_the_means() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 64, generator=generator) + 0.05 * torch.randn(2, 64, 64, generator=generator)
    before = MergedTokens.of_tokens(tokens, torch.tensor([64, 64]))
    number = torch.tensor([20, 20])
    plain = merge_similar(before, number)
    with torch.autocast("cpu", torch.bfloat16):
        half = merge_similar(before, number)
    assert torch.equal(plain.place, half.place)
    torch.testing.assert_close(plain.tokens, half.tokens, rtol=0, atol=0)
