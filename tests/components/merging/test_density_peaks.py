import pytest
import torch
from torch import Tensor

from components.merging.density_peaks import DensityPeaks, cluster_means, density_peaks, memberships
from tests.components.merging.density_peaks_by_definition import labels_by_definition


def peaks_of(entries: Tensor, mask: Tensor, num_clusters: int, num_neighbours: int = 3) -> DensityPeaks:
    count = torch.full((len(entries),), num_clusters)
    most = min(num_clusters, entries.shape[1])
    return density_peaks(entries, mask, count, torch.full_like(count, num_neighbours), most=most)


def random_entries(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_clusters", "num_neighbours"), [(4, 3), (1, 5), (12, 2), (5, 1)])
def test_clusters_are_those_of_the_definition(num_clusters: int, num_neighbours: int) -> None:
    entries = random_entries(3, 12, 4)
    found = peaks_of(entries, torch.ones(3, 12, dtype=torch.bool), num_clusters, num_neighbours)
    for row, labels in zip(entries, found.labels, strict=True):
        assert labels.tolist() == labels_by_definition(row, num_clusters, num_neighbours)


def test_masked_entries_change_nothing_whatever_they_hold() -> None:
    entries = random_entries(1, 8, 4)
    alone = peaks_of(entries, torch.ones(1, 8, dtype=torch.bool), 3)
    padded = torch.cat([torch.full((1, 3, 4), torch.nan), entries, torch.full((1, 2, 4), torch.inf)], dim=1)
    mask = torch.tensor([False] * 3 + [True] * 8 + [False] * 2).unsqueeze(0)
    found = peaks_of(padded, mask, 3)
    assert torch.equal(found.labels[:, 3:11], alone.labels)
    assert torch.equal(found.centres - 3, alone.centres)
    means = [
        cluster_means(values, memberships(peaks, real))
        for values, peaks, real in ((entries, alone, torch.ones(1, 8, dtype=torch.bool)), (padded, found, mask))
    ]
    torch.testing.assert_close(*means)


def test_groups_that_lie_apart_are_found() -> None:
    groups = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 1])
    entries = groups[:, None] * 10.0 + random_entries(9, 3) * 0.1
    found = peaks_of(entries.unsqueeze(0), torch.ones(1, 9, dtype=torch.bool), 3).labels[0]
    assert len({(group, label) for group, label in zip(groups.tolist(), found.tolist(), strict=True)}) == 3


def test_of_equal_entries_the_first_are_centres_and_the_others_join_the_first() -> None:
    found = peaks_of(torch.ones(1, 5, 2), torch.ones(1, 5, dtype=torch.bool), 2)
    assert found.centres.tolist() == [[0, 1]]
    assert found.labels.tolist() == [[0, 1, 0, 0, 0]]


def test_row_with_fewer_entries_than_clusters_gets_each_as_its_own() -> None:
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    found = peaks_of(random_entries(2, 4, 3), mask, 3)
    assert found.mask.tolist() == [[True, True, False], [False, False, False]]
    assert sorted(found.labels[0, :2].tolist()) == [0, 1]
    assert not bool(memberships(found, mask)[1].any())


def test_gradient_of_a_mean_reaches_its_members_alone() -> None:
    entries = random_entries(1, 6, 3).requires_grad_()
    mask = torch.ones(1, 6, dtype=torch.bool)
    found = peaks_of(entries, mask, 2)
    cluster_means(entries, memberships(found, mask))[0, 0].sum().backward()
    assert entries.grad is not None
    assert torch.equal(entries.grad[0].any(dim=1), found.labels[0] == 0)
