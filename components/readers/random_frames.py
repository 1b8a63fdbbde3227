"""A reader that shows a random sample of the frames so far."""

import torch
from torch import Tensor

from components.readers.frame_bank import FrameChoice, HeldFrames, with_scores
from components.readers.frame_reader import FrameProjection, FrameRun

_LOW_BITS = 2**32 - 1
_START = 0x9E3779B9  # any number but 0, which is mixed to 0
_FACTOR = 0x45D9F3B  # odd, so that multiplying permutes; below 2^31, so that nothing overflows
_EXACT_BITS = 24  # whole numbers of so many bits are exact in float32


class RandomFrames(FrameChoice):
    """Shows ``num_frames`` frames of a video that are drawn at random from all its frames so far.

    After every frame, each frame so far is held with the same chance: reservoir sampling. Each frame has a random
    number that depends on the seed and on how many frames were read before it, and the frames of the highest numbers
    are held. So a run draws the same frames each time, a streamed video holds the same frames as a stored one, and
    videos of one length show frames at the same positions. The stored bytes do not grow with the video.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most frames that are stored and shown.
        seed: Of the random numbers; 0 or more, below 2^32.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a code of each frame's number in its video to its patches, before they are projected.

    Raises:
        ValueError: There is no frame to store, the seed is out of range, ``projection`` is neither of the two, or the
            widths do not fit.

    Source: reservoir sampling in the form that keeps the highest random numbers (Efraimidis and Spirakis, Weighted
    random sampling with a reservoir, 2006), with equal weights.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_frames: int = 8,
        seed: int = 0,
        projection: FrameProjection = "mlp",
        frame_positions: bool = False,
    ) -> None:
        super().__init__(dim, out_dim, num_frames=num_frames, projection=projection, frame_positions=frame_positions)
        if not 0 <= seed <= _LOW_BITS:
            raise ValueError(f"seed must be at least 0 and below 2^32, got {seed}")
        self.seed = seed

    def held_after(self, held: HeldFrames | None, new: FrameRun) -> HeldFrames:
        """The frames of the highest random numbers; see ``FrameBank.held_after``."""
        return with_scores(held, new, random_numbers(new.order, self.seed)).of_highest_scores(self.num_frames)


def random_numbers(index: Tensor, seed: int) -> Tensor:
    """A random number of every index, the same on every device.

    Args:
        index: Whole numbers of any shape, int64.
        seed: Gives other numbers; below 2^32.

    Returns:
        Whole numbers from 0 to 2^24 - 1 of the same shape, float32.
    """
    mixed = _mixed(_mixed(torch.full_like(index, (seed + _START) & _LOW_BITS)) ^ (index & _LOW_BITS))
    return (mixed >> (32 - _EXACT_BITS)).float()


def _mixed(bits: Tensor) -> Tensor:
    """A permutation of the numbers of 32 bits under which close numbers end far apart."""
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * _FACTOR) & _LOW_BITS
    return bits ^ (bits >> 16)
