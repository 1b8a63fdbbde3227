"""Cuts a video so that as many patches as possible stay the same inside a segment."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import Segmenter, SegmenterStream


class StaticWindows(NamedTuple):
    """Windows of neighbouring frames."""

    lengths: list[int]
    saved: int  # patches that need not be stored again, because they stay the same


class StaticSegments(Segmenter):
    """Cuts a video where that lets the most patches be stored once for a whole segment.

    A patch is static in a segment if it is similar from every frame to the next. A segment of L frames saves L - 1
    times its static patches; dynamic programming finds the cuts that save most. It needs the complete video, so it
    cannot stream.

    Args:
        threshold: A patch stays the same if its cosine similarity with the next frame is above this.
        longest: Most frames of a segment.

    Raises:
        ValueError: ``longest`` is not positive.

    Source: HoliTom (arXiv:2505.21334), cokeshao/HoliTom (Apache-2.0), ``llava_arch.py: select_static_windows``, commit
    e9b2972, with 0.8 and 1,024 frames.
    """

    reads_patches = True

    def __init__(self, threshold: float = 0.8, longest: int = 1024) -> None:
        if longest < 1:
            raise ValueError(f"longest must be at least 1, got {longest}")
        self.threshold = threshold
        self.longest = longest

    def segment(self, cls: Tensor, frame_counts: Tensor, patches: Tensor | None = None) -> Tensor:
        """Cut the videos; see ``Segmenter.segment``.

        Raises:
            ValueError: There are no patches.
        """
        if patches is None:
            raise ValueError("StaticSegments compares patches, and got none")
        frames = patches.detach().float()
        similarity = functional.cosine_similarity(frames[:-1], frames[1:], dim=2)  # [F - 1, N]
        is_same = (similarity > self.threshold).cpu()  # also of the last frame of a video and the first of the next
        found, first = [], 0
        for count in frame_counts.tolist():
            lengths = static_windows(is_same[first : first + count - 1], self.longest).lengths
            found.append(torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)))
            first += count
        return torch.cat(found)

    def stream(self) -> SegmenterStream | None:
        """None: the best cuts depend on the end of the video."""
        return None


def static_windows(is_same: Tensor, longest: int) -> StaticWindows:
    """Find the windows that save most; of equal ones those with the shorter last window.

    Args:
        is_same: Whether each patch of a frame stays the same in the next one, ``[T - 1, N]`` bool.
        longest: Most frames of a window.
    """
    num_frames = len(is_same) + 1
    run = torch.zeros(is_same.shape[1], dtype=torch.int64)  # steps for which a patch has stayed the same
    best, last = [0], [1]  # of the frames so far: patches saved, length of the last window
    for frame in range(1, num_frames):
        run = torch.where(is_same[frame - 1], run + 1, 0)
        most, length = best[frame - 1], 1
        steps = torch.arange(1, min(frame + 1, longest))
        for step, static in zip(steps.tolist(), (run >= steps[:, None]).sum(dim=1).tolist(), strict=True):
            before = best[frame - step - 1] if frame > step else 0
            if before + static * step > most:
                most, length = before + static * step, step + 1
        best.append(most)
        last.append(length)
    lengths: list[int] = []
    while sum(lengths) < num_frames:
        lengths.insert(0, last[num_frames - 1 - sum(lengths)])
    return StaticWindows(lengths, best[-1])
