"""Which shards are read, how they are batched, and the data loaders that do it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.failures import FailurePolicy


@dataclass(frozen=True)
class Source:
    """Training shards of one kind.

    Args:
        shards: Path, folder or glob pattern, or several.
        weight: How often a sample comes in a pass; 1 draws every sample once, 0.5 half of them.
    """

    shards: str | list[str]
    weight: float = 1.0


@dataclass(frozen=True)
class Loading:
    """How samples are read and joined.

    Args:
        batch_size: Samples (videos with all their conversations) of one batch over all ranks together, so that the
            number of ranks changes nothing.
        eval_batch_size: The same in validation, test and predict. None = ``batch_size``.
        num_workers: Worker processes of every rank.
        max_length: Most text tokens of a conversation; None = no bound.
        video_backend: ``pyav``, ``decord`` or ``torchcodec``.
        failures: What happens to wrong samples.

    Raises:
        ValueError: A size is not positive.
    """

    batch_size: int = 8
    eval_batch_size: int | None = None
    num_workers: int = 2
    max_length: int | None = 2048
    video_backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    failures: FailurePolicy = field(default_factory=FailurePolicy)

    def __post_init__(self) -> None:
        sizes = [self.batch_size, self.eval_batch_size, self.max_length]
        if any(size is not None and size < 1 for size in sizes) or self.num_workers < 0:
            raise ValueError(f"batch sizes and max_length must be positive, num_workers not negative, got {self}")


class LateLoader(DataLoader[Batch]):
    """A data loader that reads nothing before its first batch is asked for.

    Lightning may make the iterator before it restores the checkpoint (its issue 20550: ``estimated_stepping_batches``
    in ``configure_optimizers`` is enough, and sharding strategies restore late anyway). Started then, workers would
    fetch from where the run once began.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator is what starts late
        yield from super().__iter__()


class ResumableLoader(LateLoader):
    """Tells Lightning that it can resume; where to is the datamodule's state, which is restored in time."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see the class."""
