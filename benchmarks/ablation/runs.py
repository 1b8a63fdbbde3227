"""The runs of a sweep and where their results are."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablation.sweep_file import Arm, Sweep
from benchmarks.ablation.tasks import TASKS


@dataclass(frozen=True, eq=False)
class Run:
    """One arm with one seed."""

    sweep: Sweep
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Log folder, as Lightning's logger names it."""
        return self.sweep.runs / self.arm.name / f"seed-{self.seed}"

    @property
    def settings(self) -> Path:
        """Settings of the run."""
        return self.folder / "settings.json"

    @property
    def log(self) -> Path:
        """Commands and their output; locked while the run is being trained or evaluated."""
        return self.folder / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """Final checkpoint; it exists only when training is finished."""
        return self.folder / "checkpoints" / "final.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """Checkpoint from which stopped training resumes."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def answers(self) -> Path:
        """Answers to the held-out questions, with a ``report.json`` when all are answered."""
        return self.folder / "answers"

    @property
    def fresh_answers(self) -> Path:
        """The same for the new held-out videos, where the task has them."""
        return self.folder / "fresh_answers"

    @property
    def measures(self) -> Path:
        """What videos cost with the trained arm."""
        return self.folder / "measures.json"

    @property
    def is_evaluated(self) -> bool:
        """Whether it is trained and has answered all held-out questions."""
        reports = [self.answers]
        if self.fresh_features is not None:
            reports.append(self.fresh_answers)
        return all((answers / "report.json").is_file() for answers in reports)

    @property
    def fresh_features(self) -> Path | None:
        """Features of the new held-out videos; None where the task has none, or they were not made."""
        fresh = TASKS[self.sweep.task].fresh
        folder = None if fresh is None else self.sweep.data / fresh / "features"
        return folder if folder is not None and folder.is_dir() else None


def runs_of(sweep: Sweep, arms: tuple[str, ...] | None = None, seeds: tuple[int, ...] | None = None) -> list[Run]:
    """The runs of a sweep: every arm with the first seed, then with the second.

    Args:
        sweep: The sweep.
        arms: Only these arms.
        seeds: Other seeds than the sweep's.
    """
    chosen = [arm for name, arm in sweep.arms.items() if arms is None or name in arms]
    return [Run(sweep, arm, seed) for seed in seeds or sweep.seeds for arm in chosen]
