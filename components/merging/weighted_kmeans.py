"""Clusters the entries of every video into a few weighted means."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MOST_ROUNDS = 10
LEAST_SHIFT = 1e-4
"""Clustering ends when the centroids move less than this in sum."""


class Clusters(NamedTuple):
    """Clusters of every video."""

    centroids: Tensor  # [V, K, W]
    weights: Tensor  # [V, K] float32, sum of the weights of the members; 0 for an empty cluster
    labels: Tensor  # [V, T] int64, cluster of every entry; of no meaning where masked
    refills: Tensor  # [V] int64, how often an empty cluster started again


class Draws(NamedTuple):
    """The random numbers of a published run, so that it can be repeated."""

    start: Tensor  # [V, K] int64, entries at which the clusters start
    refill: Tensor  # [V, R] int64, entries that replace empty clusters, in the order of use


def weighted_kmeans(
    entries: Tensor, weights: Tensor, num_clusters: int, *, draws: Draws | None = None, as_published: bool = False
) -> Clusters:
    """Cluster by Euclidean distance, at most ``MOST_ROUNDS`` rounds.

    A video with at most K entries gets each as a cluster of its own. Otherwise clusters start at evenly spaced entries.
    An empty cluster starts again at the entry that is farthest from its centroid; a cluster that is still empty at the
    end has the weight 0. Choices are made without gradient; the means pass gradients on to the entries.

    Args:
        entries: ``[V, T, W]``; real ones need not come first.
        weights: How much each entry counts, ``[V, T]`` float32; 0 where there is none.
        num_clusters: Clusters K.
        draws: Where to start and restart instead.
        as_published: Give the centroids before the last update, as the published code does where it has converged.
    """
    order = (weights <= 0).byte().argsort(dim=1, stable=True)  # real ones first
    entries = entries.gather(1, order.unsqueeze(2).expand_as(entries))
    weights = weights.float().gather(1, order)
    missing = max(0, num_clusters - entries.shape[1])
    padded, padded_weights = functional.pad(entries, (0, 0, 0, missing)), functional.pad(weights, (0, missing))
    count = (weights > 0).sum(dim=1)
    with torch.no_grad():
        points = padded.detach().float()
        start = _even_start(count, num_clusters) if draws is None else draws.start
        before, labels, refills = _rounds(points, padded_weights, start, None if draws is None else draws.refill)
    means, sizes = _means(padded.float(), padded_weights, labels, num_clusters)
    if as_published:  # their values, with the gradient of the means
        means = means + (before - means).detach()
    fits = count <= num_clusters
    centroids = torch.where(fits[:, None, None], padded[:, :num_clusters].float(), means)
    sizes = torch.where(fits[:, None], padded_weights[:, :num_clusters], sizes)
    own = torch.arange(entries.shape[1], device=labels.device).clamp(max=num_clusters - 1)
    labels = torch.where(fits[:, None], own, labels[:, : entries.shape[1]])
    labels = torch.empty_like(labels).scatter(1, order, labels)
    return Clusters(centroids.to(entries.dtype), sizes, labels, torch.where(fits, 0, refills))


def ordered_by_time(clusters: Clusters, times: Tensor, weights: Tensor) -> tuple[Clusters, Tensor]:
    """Sort clusters by the mean time of their members; empty ones come last.

    Args:
        clusters: Clusters of every video.
        times: Of every entry, ``[V, T]`` float32.
        weights: How much each entry counts, ``[V, T]`` float32; 0 where there is none.

    Returns:
        The clusters and their mean times, ``[V, K]``; times of empty clusters are infinite.
    """
    num_clusters = clusters.weights.shape[1]
    each = torch.arange(num_clusters, device=weights.device)
    member = (clusters.labels[..., None] == each).float() * weights[..., None]
    number = member.sum(dim=1)
    mean = (member * times[..., None]).sum(dim=1) / torch.where(number == 0, 1.0, number)
    mean = mean.masked_fill(number == 0, float("inf"))
    mean, order = mean.sort(dim=1, stable=True)
    wide = order[..., None].expand_as(clusters.centroids)
    new = order.argsort(dim=1).gather(1, clusters.labels)
    return Clusters(clusters.centroids.gather(1, wide), clusters.weights.gather(1, order), new, clusters.refills), mean


def nearest(points: Tensor, candidates: Tensor, is_real: Tensor) -> Tensor:
    """The candidate ``[V, T, W]`` nearest to each point ``[V, K, W]``, ``[V, K]`` int64; of equal ones the first."""
    squared = _squared_distance(points.detach().float(), candidates.detach().float())
    return squared.masked_fill(~is_real[:, None], float("inf")).argmin(dim=2)


def _even_start(count: Tensor, num_clusters: int) -> Tensor:
    """Evenly spaced ones of the first ``count [V]`` entries, ``[V, K]``."""
    each = torch.arange(num_clusters, device=count.device)
    return (each * count[:, None]).div(num_clusters, rounding_mode="floor")


def _rounds(points: Tensor, weights: Tensor, start: Tensor, refill: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster until nothing moves.

    Returns:
        The centroids before the last update where they stand still, the labels, and how often a cluster was refilled.
    """
    num_clusters = start.shape[1]
    centroids = points.gather(1, start.unsqueeze(2).expand(-1, -1, points.shape[2]))
    labels = torch.zeros_like(weights, dtype=torch.int64)
    done = torch.zeros_like(weights[:, 0], dtype=torch.bool)
    used = torch.zeros_like(start[:, :1])
    for _ in range(MOST_ROUNDS):
        squared = _squared_distance(points, centroids)
        found = squared.argmin(dim=2)
        labels = torch.where(done[:, None], labels, found)
        means, sizes = _means(points, weights, found, num_clusters)
        empty = sizes <= 0
        which = used + empty.long().cumsum(dim=1) - 1  # a number for every empty cluster
        if refill is None:
            distance = squared.gather(2, found[..., None]).squeeze(2).masked_fill(weights <= 0, -1.0)
            farthest = distance.argsort(dim=1, descending=True, stable=True)
            source = farthest.gather(1, (which - used).clamp(min=0))
        else:
            source = _taken(refill, which)
        used = used + (empty & ~done[:, None]).sum(dim=1, keepdim=True)
        restart = points.gather(1, source.unsqueeze(2).expand(-1, -1, points.shape[2]))
        means = torch.where(empty[..., None], restart, means)
        shift = (centroids - means).norm(dim=2).sum(dim=1)
        done = done | (shift < LEAST_SHIFT)
        centroids = torch.where(done[:, None, None], centroids, means)
    return centroids, labels, used.squeeze(1)


def _taken(refill: Tensor, which: Tensor) -> Tensor:
    if not refill.shape[1]:
        return torch.zeros_like(which)
    return refill.gather(1, which.clamp(0, refill.shape[1] - 1))


def _means(points: Tensor, weights: Tensor, labels: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Weighted mean of every cluster ``[V, K, W]``, zero for an empty one, and its weight ``[V, K]``."""
    sizes = weights.new_zeros(len(weights), num_clusters).scatter_add(1, labels, weights)
    wide = labels.unsqueeze(2).expand_as(points)
    total = points.new_zeros(len(points), num_clusters, points.shape[2])
    total = total.scatter_add(1, wide, points * weights[..., None])
    return total / torch.where(sizes > 0, sizes, 1.0)[..., None], sizes


def _squared_distance(points: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances, ``[V, T, K]``; one point after the other of ``others``, so that memory stays small.

    Differences are squared, because the expanded square is inexact where points are close.
    """
    return torch.stack([(points - other).square().sum(dim=2) for other in others.unsqueeze(2).unbind(1)], dim=2)
