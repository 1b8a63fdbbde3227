"""The settings that fix the order of training samples.

The order depends only on these settings, the shards and the position in the run. The number of ranks, of workers and
of prefetched batches changes nothing.
"""

import warnings
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class CurriculumStage:
    """The start of training, on short videos only.

    Args:
        until_step: Number of optimizer steps, from the start of the run, after which this stage ends.
        max_frames: Longer samples (by ``meta.num_frames``) are not drawn.
    """

    until_step: int
    max_frames: int


@dataclass(frozen=True)
class TrainingOrder:
    """The order of training samples; with the batch size or budget also which samples share a batch.

    Args:
        seed: Seed of the order and of the augmentation.
        curriculum: Stages at the start of the run.
        shuffle_block: Number of draws that are shuffled together. Larger mixes better; smaller keeps reads near each
            other on disk.
        temperature: Mixes the sources by size instead of by weight: source i has a share of the draws proportional to
            ``n_i ** (1 / temperature)``, with n_i its different draws. At 1 each is drawn once a pass. The higher, the
            more equal the shares: small sources are repeated in a pass, large ones need several passes.
        conversations_per_video: Most conversations of a sample in one draw. In every pass they are divided anew into
            groups of equal size (or one less). Each is trained on once a pass; the video is decoded once a group.
            None = all of them in one draw.
        modalities: ``mixed`` puts video, image, feature and text samples into one batch. ``separate`` gives every
            global batch one modality only, in proportion to their shares.
        window: A pass is cut into windows of at most so many draws. With a budget or separate modalities, batches are
            formed and shuffled within a window. Larger windows give draws of more similar length to a batch; smaller
            ones keep reads near each other on disk.

    Raises:
        ValueError: A value is out of range.
    """

    seed: int = 0
    curriculum: list[CurriculumStage] = field(default_factory=list)
    shuffle_block: int = 1000
    temperature: float | None = None
    conversations_per_video: int | None = None
    modalities: Literal["mixed", "separate"] = "mixed"
    window: int = 4096

    def __post_init__(self) -> None:
        if self.seed < 0 or self.shuffle_block < 1:
            raise ValueError(f"seed must not be negative and shuffle_block be positive, got {self}")
        if any(value is not None and value <= 0 for value in (self.temperature, self.conversations_per_video)):
            raise ValueError(f"temperature and conversations_per_video must be positive or null, got {self}")
        if self.window < 1 or self.modalities not in ("mixed", "separate"):
            raise ValueError(f"window must be positive and modalities 'mixed' or 'separate', got {self}")
        ends = [0, *(stage.until_step for stage in self.curriculum)]
        if ends != sorted(set(ends)):
            raise ValueError(f"the curriculum's until_step must grow from above 0, got {ends[1:]}")

    def warn_of_short_run(self, num_steps: int) -> None:
        """Warn if the run ends within the curriculum; ``num_steps`` is -1 for a run without a fixed number of steps."""
        if self.curriculum and 0 < num_steps <= self.curriculum[-1].until_step:
            warnings.warn(
                f"the curriculum takes all {num_steps} steps of this run: it never trains on samples of more than "
                f"{self.curriculum[-1].max_frames} frames. Raise trainer.max_steps, or let the stages end earlier, "
                "such as --data.order.curriculum='[{until_step: 1, max_frames: 4}]'",
                stacklevel=2,
            )


class Draw(NamedTuple):
    """One item of the training stream."""

    sample: int
    position: int  # number of draws before it; part of the augmentation's seed
    conversations: tuple[int, ...] | None = None  # indices of the sample's conversations, ascending; None = all
