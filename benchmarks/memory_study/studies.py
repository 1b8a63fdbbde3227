"""The two studies: what each trains all arms on, and which section of the results page it writes."""

from pathlib import Path
from typing import NamedTuple


class Study(NamedTuple):
    """What all arms of a study have in common."""

    folder: Path  # default folder of data and runs
    config: str  # what every arm is trained on; its paths are below ``folder``
    one_task: str  # shards of held-out videos whose memories are measured, below ``features/``
    section: str  # name of the section's marks on the results page
    anchor: str  # of the section's heading
    heading: str
    option: str  # of the commands, with a space before
    tasks: str  # what the arms were trained on, for the section's text
    lengths: tuple[int, ...]  # of held-out videos, in units of the longest training video
    compared: tuple[str, ...]  # arms whose figures are in the table at the top of the results page

    @property
    def short_folder(self) -> Path:
        """Default folder of a shortened study."""
        return self.folder.with_name(f"{self.folder.name}_short")


ALL_TASKS = Study(
    folder=Path("runs/memory_study"),
    config="benchmarks/memory_study/study.yaml",
    # The videos of one task are enough: memories differ little, and the longest videos take long.
    one_task="eval-needle-*.tar",
    section="memory study",
    anchor="memory-designs-one-needle-order-and-count-to-32-times-the-training-length",
    heading="Memory designs: one needle, order and count, to 32 times the training length",
    option="",
    tasks="all three tasks together",
    lengths=(1, 2, 4, 8, 16, 32),
    compared=("selective", "published"),
)

QUICKSTART = Study(
    folder=Path("runs/memory_study_quickstart"),
    config="benchmarks/memory_study/quickstart.yaml",
    one_task="eval-*.tar",
    section="memory study, quickstart",
    anchor="memory-designs-the-quickstarts-task-with-tokens-and-bytes",
    heading="Memory designs: the quickstart's task, with tokens and bytes",
    option=" --quickstart",
    tasks="the quickstart's task",
    lengths=(1, 2, 4, 8),
    compared=("grid_memory", "grid_memory_budget", "selective", "mean_pooling"),
)
