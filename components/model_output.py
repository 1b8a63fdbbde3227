"""The result of a training step of the model."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class ModelOutput(NamedTuple):
    """Result of a training step."""

    loss: Tensor  # scalar; its mean over ranks (and batches of a step) is the mean over the answer tokens of them all
    reading_losses: Tensor  # [R] detached, one for each reading; the loss without weights and penalty
    num_answer_tokens: Tensor  # scalar int64
    segment_groups: dict[str, Tensor]  # a stream's [V, S] int64 on the host, frame groups read; 0 without the segment
    num_computed_positions: int  # of the language model in all readings, with padding; 0 where it reports none
    num_positions: Tensor | None  # scalar int64, the same without padding
    penalty: Tensor | None  # scalar, detached: what the readers added to the loss
    row_index: Tensor | None = None  # [C, M] int64, rows of ``segment_groups`` where they are not videos but media of
    # conversations, because frames are chosen by the question
    picture_tokens: Mapping[int, int] = {}  # visual tokens of pictures in tiles, by their number among the videos

    @property
    def segment_counts(self) -> Tensor:
        """Segments of every video, ``[V]`` int64 on the host."""
        return (next(iter(self.segment_groups.values())) > 0).sum(dim=1)
