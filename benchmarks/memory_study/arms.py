"""The memory designs to compare, and the paths of their runs."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.memory_study.studies import ALL_TASKS, Study

FOLDER = ALL_TASKS.folder
"""Default folder of the study of all tasks: data and runs."""

FRESH = "fresh"
"""Folder inside it: held-out videos that no run was looked at on before the designs were settled."""

ARMS: dict[str, tuple[str, ...]] = {
    "published": ("configs/ablation/published_bridge.yaml",),
    "gated_without_cache": ("configs/ablation/replacing_memory.yaml", "configs/ablation/memory_readout.yaml"),
    "cache_without_recurrence": ("configs/ablation/no_recurrence.yaml",),
    "both": ("configs/ablation/replacing_memory.yaml",),
    "grid_memory": ("configs/ablation/grid_memory.yaml",),
    "grid_memory_budget": ("configs/ablation/grid_memory.yaml", "configs/ablation/grid_memory_budget.yaml"),
    "selective": (),
    "mean_pooling": ("configs/ablation/mean_pooling.yaml",),
}
"""Name -> configs that make the arm out of the quickstart's, in order. A new arm is a line here."""


def most_costs(study: Path) -> Path:
    """What videos cost at most with each arm, not trained; the file exists only if the step ``costs`` was run."""
    return study / "most_costs.json"


class Run(NamedTuple):
    """One training run and its results; all paths are below the study's folder."""

    study: Path
    arm: str
    seed: int
    of: Study = ALL_TASKS

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Log folder, as Lightning's logger names it."""
        return self.study / "arms" / self.arm / f"seed-{self.seed}"

    @property
    def settings(self) -> Path:
        """Settings of the run."""
        return self.folder / "settings.json"

    @property
    def checkpoint(self) -> Path:
        """Final checkpoint; it exists only when training is finished."""
        return self.folder / "checkpoints" / "final.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """Checkpoint from which stopped training resumes."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def report(self) -> Path:
        """Accuracies; the file exists only when all held-out questions are answered."""
        return self.folder / "answers" / "report.json"

    @property
    def fresh_report(self) -> Path:
        """Accuracies on the new held-out videos; the file exists only if the run was evaluated on them."""
        return self.folder / "fresh_answers" / "report.json"

    @property
    def costs(self) -> Path:
        """Visual tokens and bytes of the state by length; runs of earlier versions do not have the file."""
        return self.folder / "costs.json"

    @property
    def rank(self) -> Path:
        """Rank of the memory; written last, so a run that has it is finished."""
        return self.folder / "rank.json"
