"""Density peaks of one row, as a loop over entries."""

import torch
from torch import Tensor


def labels_by_definition(entries: Tensor, num_clusters: int, num_neighbours: int) -> list[int]:
    """Cluster of every entry ``[T, W]``; of equal ones the first wins."""
    points = entries.double()
    distances = [[float((one - other).norm()) / entries.shape[1] ** 0.5 for other in points] for one in points]
    densities = []
    for row in distances:
        near = sorted(row)[:num_neighbours]
        densities.append(float(torch.tensor(-sum(each * each for each in near) / len(near)).exp()))
    scores = []
    for entry, row in enumerate(distances):
        ahead = (-densities[entry], entry)
        denser = [row[other] for other in range(len(row)) if (-densities[other], other) < ahead]
        scores.append(densities[entry] * min(denser, default=max(map(max, distances))))
    centres = sorted(range(len(scores)), key=lambda entry: (-scores[entry], entry))[:num_clusters]
    return [
        centres.index(entry) if entry in centres else min(range(len(centres)), key=lambda c: row[centres[c]])
        for entry, row in enumerate(distances)
    ]
