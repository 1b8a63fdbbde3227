"""Cuts a video into segments as a model does, with its encoder and its segmenter alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.encoders.cached import CachedFeatures
from components.interfaces import FrameEncoder, Segmenter
from components.segmenters.depth import adjacent_similarity


class Cuts(NamedTuple):
    """The segments of one video."""

    scene: tuple[int, ...]  # number of every frame's segment, [T]
    similarity: tuple[float, ...]  # cosine similarity of neighbouring frames' class vectors, [T - 1]


class VideoCuts(NamedTuple):
    """Finds the cuts of videos.

    Args:
        encoder: Gives the class vectors.
        segmenter: Cuts where they differ, or by its own rule.
    """

    encoder: FrameEncoder
    segmenter: Segmenter

    @property
    def reads_features(self) -> bool:
        """Whether the encoder reads cached features, and no pixels."""
        return isinstance(self.encoder, CachedFeatures)

    @torch.no_grad()
    def of(self, frames: Tensor) -> Cuts:
        """Cut one video.

        Args:
            frames: As the encoder reads them: uint8 ``[T, 3, H, W]``, or features ``[T, rows, width]``.
        """
        weights = next(self.encoder.parameters(), None)
        counts = torch.tensor([len(frames)])
        cls = self.encoder(frames if weights is None else frames.to(weights.device), counts).cls
        scene = self.segmenter.segment(cls, counts).tolist()
        return Cuts(tuple(scene), tuple(adjacent_similarity(cls).tolist()))
