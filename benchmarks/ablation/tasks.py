"""What the arms of a sweep are trained on and asked about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from apps.quickstart import __main__ as quickstart
from apps.quickstart.haystack import HaystackShards
from benchmarks.ablation import three_tasks


class Task(NamedTuple):
    """Data that an arm is trained and evaluated on, in a folder with ``features/`` and ``language_model/``."""

    prepare: Callable[[Path, bool, Path | None], HaystackShards | None]  # folder, short, wheels -> what was made
    train: tuple[str, ...]  # shards of training videos, below ``features/``
    measured: str  # shards of held-out videos whose costs are measured, below ``features/``
    fresh: str | None = None  # folder below with other held-out ``features/`` on which finished arms are evaluated too

    def settings(self, data: Path) -> dict[str, Any]:
        """Settings of a run on this data, by dotted name."""
        return {
            "model.language_model.init_args.path": f"{data}/language_model",
            "data.tokenizer": f"{data}/language_model",
            "data.train": [{"shards": f"{data}/features/{shards}"} for shards in self.train],
            # evaluate.py evaluates runs when they are finished.
            "data.validation": None,
            "data.test": None,
            "data.predict": None,
        }


def _quickstart(data: Path, short: bool, wheels: Path | None) -> None:
    scale = quickstart.SHORT if short else quickstart.Scale()
    quickstart.prepare(scale, data, wheels, quickstart.Stopwatch())


def _three_tasks(data: Path, short: bool, wheels: Path | None) -> HaystackShards:
    size = three_tasks.SHORT if short else three_tasks.StudySize()
    made = three_tasks.prepare(data, size, wheels=wheels)
    three_tasks.prepare_fresh(data, size, wheels=wheels)
    return made


TASKS: dict[str, Task] = {
    "quickstart": Task(_quickstart, ("train-*.tar",), "eval-*.tar"),
    "three_tasks": Task(
        _three_tasks,
        tuple(
            f"train-{task}-{part}"
            for task in ("needle", "order", "count")
            for part in ("one-segment-*.tar", "[0-9]*.tar")
        ),
        # The videos of one task are enough: memories differ little, and the longest videos take long.
        "eval-needle-*.tar",
        fresh=three_tasks.FRESH,
    ),
}
"""Name -> task. ``quickstart``: the colour, shape or place of a coloured shape in films of up to 8 times the training
length. ``three_tasks``: the same, which of two came first, and how many, to 32 times."""
