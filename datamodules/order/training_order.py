"""What fixes the order of training samples.

The order follows from these settings, the shards and the place in the run alone, whatever the number of ranks, workers
and prefetched batches. From shards to a rank's batch:

    units.py       what can be drawn, and how long it is
    stream.py      the endless stream of units, a pass over the sources after the other
    batches.py     the stream cut into global batches, consecutive ones or as batch_plan.py groups them by length
    ranks.py       a global batch split over the ranks
"""

import warnings
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class CurriculumStage:
    """The start of training, on short videos only.

    Args:
        until_step: Optimizer step after which this stage ends, counted from the start of the run.
        max_frames: Most frames (``meta.num_frames``) of a sample that is drawn.
    """

    until_step: int
    max_frames: int


@dataclass(frozen=True)
class TrainingOrder:
    """What fixes the order of training samples, and with the batch size or budget which of them share a batch.

    Args:
        seed: Seed of the order and of the augmentation.
        curriculum: Stages at the start of the run.
        shuffle_block: Units that are shuffled with each other; larger mixes better, smaller reads nearer.
        temperature: Mixes the sources by size, instead of their weights: source i has a share proportional to
            ``n_i ** (1 / temperature)`` of the draws, n_i its units. At 1 every unit comes once a pass; the higher, the
            more equal the shares, small sources come several times a pass and large ones need several passes.
        conversations_per_video: Most conversations of a sample that share a step. Those of a sample fall anew into
            groups of like size in every pass, each is trained on once a pass, and its video is decoded once a group.
            None = all of them share a step.
        modalities: ``mixed`` puts video, image, feature and text samples into one batch; ``separate`` gives every
            global batch one kind only, each kind as many batches as its share asks.
        window: Draws that fall into batches among each other where a budget or separate modalities group them, and
            whose batches are shuffled. Larger groups more alike, smaller reads nearer. A pass is cut into windows.

    Raises:
        ValueError: A value makes no sense.
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
        """Warn of a run that ends within the curriculum; ``num_steps`` is -1 where no number of steps ends it."""
        if self.curriculum and 0 < num_steps <= self.curriculum[-1].until_step:
            warnings.warn(
                f"the curriculum takes all {num_steps} steps of this run: it never trains on samples of more than "
                f"{self.curriculum[-1].max_frames} frames. Raise trainer.max_steps, or let the stages end earlier, "
                "such as --data.order.curriculum='[{until_step: 1, max_frames: 4}]'",
                stacklevel=2,
            )


class Draw(NamedTuple):
    """One draw of the stream."""

    sample: int
    position: int  # how many draws came before; seeds the augmentation
    conversations: tuple[int, ...] | None = None  # which of the sample's conversations, ascending; None = all
