"""A reader that shows the newest frames of a video and forgets the others."""

import torch

from components.readers.frame_bank import FrameChoice, HeldFrames, with_scores
from components.readers.frame_reader import FrameRun


class LastFrames(FrameChoice):
    """Shows the last ``num_frames`` frames of a video, each with all its patches.

    There is no memory: what was seen earlier is lost. A memory that answers no better than this does not help. The
    stored bytes do not grow with the video.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most frames that are stored and shown.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a code of each frame's number in its video to its patches, before they are projected.

    Raises:
        ValueError: There is no frame to store, ``projection`` is neither of the two, or the widths do not fit.

    Source: the rule of SimpleStream, the last N frames alone; written from this rule, without its code.
    """

    def held_after(self, held: HeldFrames | None, new: FrameRun) -> HeldFrames:
        """The newest frames; see ``FrameBank.held_after``."""
        frames = with_scores(held, new, torch.zeros_like(new.order, dtype=torch.float32))
        is_real = frames.frames.order >= 0
        num_later = is_real.flip(1).cumsum(dim=1).flip(1) - is_real.int()
        return frames.of_slots(is_real & (num_later < self.num_frames), self.num_frames)
