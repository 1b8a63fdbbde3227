"""Cuts a video into scenes by clustering its frames."""

from itertools import groupby, pairwise

import torch
from torch import Tensor

from components.interfaces import Segmenter
from components.merging.density_peaks import Noise, density_peaks
from components.packed_frames import locate_frames


class SceneClusters(Segmenter):
    """Clusters the frames of a video by their mean patches, and makes each cluster one run of frames.

    Of each cluster the longest run is a scene. Frames between two scenes join the longer one. Which cluster a frame is
    in depends on the complete video, so it cannot stream.

    Args:
        cluster_rate: Clusters for each frame of the video, rounded down, but at least one.
        num_neighbours: Frames by which the clustering finds dense ones; a shorter video uses all its frames.

    Raises:
        ValueError: ``cluster_rate`` is not above 0 and at most 1, or ``num_neighbours`` is below 1.

    Source: PruneVid (arXiv:2412.16117), Visual-AI/PruneVid (its README names CC BY-NC-SA 4.0; written from a
    description), ``models/pllava/modeling_pllava.py``, commit b12600c. There a video needs at least as many frames as
    neighbours, and ties are broken by random numbers.
    """

    reads_patches = True

    def __init__(self, cluster_rate: float = 0.25, num_neighbours: int = 7) -> None:
        if not 0.0 < cluster_rate <= 1.0:
            raise ValueError(f"SceneClusters's cluster_rate must be above 0 and at most 1, got {cluster_rate}")
        if num_neighbours < 1:
            raise ValueError(f"SceneClusters's num_neighbours must be at least 1, got {num_neighbours}")
        self.cluster_rate = cluster_rate
        self.num_neighbours = num_neighbours

    def segment(self, cls: Tensor, frame_counts: Tensor, patches: Tensor | None = None) -> Tensor:
        """Number the segments.

        Args:
            cls: Class vectors of the packed frames, ``[F, D]``; only their number is used.
            frame_counts: Frames of every video, ``[V]`` int64.
            patches: Patches of the packed frames, ``[F, N, D]``.

        Returns:
            Segment of every frame in its video, ``[F]`` int64 on the CPU.

        Raises:
            ValueError: There are no patches, or the counts do not sum to F.
        """
        if patches is None:
            raise ValueError("SceneClusters reads the patches of the frames: give them as the third argument")
        frame_counts = frame_counts.cpu()
        video, position = locate_frames(frame_counts, cls.shape[0])
        if not len(position):
            return position
        means = patches.detach().float().mean(dim=1)
        rows = means.new_zeros(len(frame_counts), int(frame_counts.max()), means.shape[1])
        rows[video.to(means.device, non_blocking=True), position.to(means.device, non_blocking=True)] = means
        labels = self.labels(rows, frame_counts.to(means.device, non_blocking=True)).cpu()
        index = torch.zeros_like(labels)
        for row, count in enumerate(frame_counts.tolist()):
            scenes = longest_runs(labels[row, :count].tolist())
            cuts = [0, *(int(one != other) for one, other in pairwise(scenes))]
            index[row, :count] = torch.tensor(cuts).cumsum(0)
        return index[video, position]

    def labels(self, frames: Tensor, frame_counts: Tensor, noise: Noise | None = None) -> Tensor:
        """Cluster of every frame, ``[V, T]`` int64.

        Args:
            frames: A vector of every frame, ``[V, T, D]``.
            frame_counts: Frames of every video, ``[V]`` int64 on the device.
            noise: See ``density_peaks``.
        """
        length = frames.shape[1]
        mask = torch.arange(length, device=frames.device) < frame_counts.unsqueeze(1)
        wanted = (frame_counts.double() * self.cluster_rate).long().clamp(min=1)
        neighbours = torch.full_like(wanted, self.num_neighbours)
        most = max(1, int(length * self.cluster_rate))
        return density_peaks(frames, mask, wanted, neighbours, most=most, noise=noise).labels


def longest_runs(labels: list[int]) -> list[int]:
    """Make each cluster one run: its longest, or several that are equally long.

    Runs of one frame are removed. What is between two runs that are left joins the longer of them, or the left one. If
    no run is left, all frames are in cluster 0.
    """
    runs: list[tuple[int, int, int]] = []  # label, first frame, frames
    first = 0
    for label, members in groupby(labels):
        length = len(list(members))
        runs.append((label, first, length))
        first += length
    longest: dict[int, int] = {}
    for label, _, length in runs:
        longest[label] = max(length, longest.get(label, 2))
    left = [run for run in runs if run[2] == longest[run[0]]]
    if not left:
        return [0] * len(labels)
    ends = [0]  # one past each scene
    for (_, start, length), (_, next_start, next_length) in pairwise(left):
        ends.append(start + length if next_length > length else next_start)
    ends.append(len(labels))
    result: list[int] = []
    for (label, _, _), (begin, end) in zip(left, pairwise(ends), strict=True):
        result.extend([label] * (end - begin))
    return result
