import torch
from torch import Tensor

from components.merging.weighted_kmeans import Clusters, Draws, ordered_by_time, weighted_kmeans


def clustered_by_hand(points: Tensor, weights: Tensor, start: list[int]) -> tuple[Tensor, list[int]]:
    """Lloyd's rounds with slow loops; no cluster becomes empty in the data below."""
    centroids = points[start]
    labels: list[int] = []
    for _ in range(10):
        labels = [int((centroids - point).norm(dim=1).argmin()) for point in points]
        members = [[number for number, label in enumerate(labels) if label == each] for each in range(len(start))]
        new = torch.stack([(weights[each, None] * points[each]).sum(dim=0) / weights[each].sum() for each in members])
        if float((new - centroids).norm(dim=1).sum()) < 1e-4:
            break
        centroids = new
    return new, labels


def test_clusters_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 20, 4, generator=generator)
    weights = torch.randint(1, 5, (3, 20), generator=generator).float()
    clusters = weighted_kmeans(points, weights, 4)
    for video in range(3):
        expected, labels = clustered_by_hand(points[video], weights[video], [0, 5, 10, 15])
        torch.testing.assert_close(clusters.centroids[video], expected)
        assert clusters.labels[video].tolist() == labels
    torch.testing.assert_close(clusters.weights.sum(dim=1), weights.sum(dim=1))


def test_masked_entries_change_nothing_wherever_they_are() -> None:
    points, weights = torch.randn(1, 12, 3), torch.ones(1, 12)
    alone = weighted_kmeans(points, weights, 3)
    garbage = torch.full((1, 2, 3), 1e3)
    padded = torch.cat([garbage, points[:, :5], garbage, points[:, 5:]], dim=1)
    mask = torch.cat([torch.zeros(1, 2), weights[:, :5], torch.zeros(1, 2), weights[:, 5:]], dim=1)
    together = weighted_kmeans(padded, mask, 3)
    torch.testing.assert_close(together.centroids, alone.centroids)
    assert torch.equal(together.labels[mask > 0], alone.labels[0])


def test_few_entries_stay_as_they_are() -> None:
    points = torch.randn(1, 2, 3)
    clusters = weighted_kmeans(points, torch.tensor([[3.0, 1.0]]), 4)
    torch.testing.assert_close(clusters.centroids[:, :2], points)
    assert clusters.weights.tolist() == [[3.0, 1.0, 0.0, 0.0]]
    assert clusters.labels.tolist() == [[0, 1]]


def test_an_empty_cluster_starts_again_at_the_farthest_entry() -> None:
    points = torch.tensor([[[0.0], [0.0], [0.0], [0.0], [9.0]]])
    clusters = weighted_kmeans(points, torch.ones(1, 5), 2)  # both start at 0
    assert clusters.centroids[..., 0].tolist() == [[0.0, 9.0]]
    assert clusters.weights.tolist() == [[4.0, 1.0]]


def test_recorded_draws_replace_empty_clusters_in_their_order() -> None:
    points = torch.tensor([[[0.0], [0.0], [0.0], [7.0], [9.0]]])
    draws = Draws(torch.tensor([[0, 1]]), torch.tensor([[3]]))
    clusters = weighted_kmeans(points, torch.ones(1, 5), 2, draws=draws)
    assert clusters.centroids[..., 0].tolist() == [[0.0, 8.0]]
    assert clusters.refills.tolist() == [1]


def test_gradients_are_those_of_the_means() -> None:
    points = torch.randn(1, 9, 3, requires_grad=True)
    for as_published in (False, True):
        clusters = weighted_kmeans(points, torch.ones(1, 9), 2, as_published=as_published)
        [gradient] = torch.autograd.grad(clusters.centroids[0, 0].sum(), points)
        is_member = clusters.labels[0] == 0
        torch.testing.assert_close(
            gradient[0, is_member], torch.full((int(is_member.sum()), 3), 1 / int(is_member.sum()))
        )
        assert not bool(gradient[0, ~is_member].any())


def test_clusters_are_sorted_by_the_mean_time_of_their_members() -> None:
    centroids, weights = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[2.0, 0.0, 1.0]])
    clusters = Clusters(centroids, weights, torch.tensor([[2, 0, 0]]), torch.tensor([0]))
    ordered, times = ordered_by_time(clusters, torch.tensor([[0.0, 1.0, 2.0]]), torch.ones(1, 3))
    assert ordered.centroids[..., 0].tolist() == [[3.0, 1.0, 2.0]]
    assert ordered.weights.tolist() == [[1.0, 2.0, 0.0]]
    assert ordered.labels.tolist() == [[0, 1, 1]]
    assert times.tolist() == [[0.0, 1.5, float("inf")]]
