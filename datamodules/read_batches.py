"""Counts the samples that a run reads and leaves out, and fails if too many were left out."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batch import SKIPPED_KEY, Batch
from datamodules.errors import TooManySkippedError, kinds_of_errors
from datamodules.failures import FailurePolicy, in_words

_KINDS = kinds_of_errors()
_SOURCES = {"validate": "validation"}


def skipped_file(trainer: Any, sources: str) -> Path:
    """File that lists the samples left out of an evaluation. Every rank must call this: the ranks agree on the folder.

    Args:
        trainer: Lightning's trainer.
        sources: ``validation``, ``test`` or ``predict``.
    """
    return Path(trainer.log_dir or trainer.default_root_dir, f"skipped_{sources}.jsonl")


class ReadBatches:
    """Counts of this rank by stage: batches, batches of which every sample was left out, samples."""

    def __init__(self) -> None:
        self._read: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()
        self._samples: Counter[str] = Counter()
        self._left_out: dict[str, Counter[str]] = {}  # by kind

    def add(self, stage: str, batch: Batch) -> None:
        """Count a batch of this stage, such as ``train``."""
        keys = {question.key for question in batch.questions} - {SKIPPED_KEY}
        self._read[stage] += 1
        self._empty[stage] += not keys
        self._samples[stage] += len(keys) + len(batch.left_out)
        self._left_out.setdefault(stage, Counter()).update(batch.left_out)

    def finish(self, trainer: Any, failures: FailurePolicy) -> None:
        """Check the counts when a run has ended. Every rank must call it.

        Args:
            trainer: Lightning's trainer.
            failures: Has the limits.

        Raises:
            TooManySkippedError: Over all ranks, all samples of a stage were left out, or more than
                ``max_skipped_share`` of the samples of ``validate``, ``test`` or ``predict``.
        """
        for stage, num_read in sorted(self._read.items()):
            if trainer.strategy.reduce_boolean_decision(self._empty[stage] == num_read, all=True):
                raise TooManySkippedError(
                    f"stage {stage!r}: every sample of all {num_read} batches was left out, so it has no "
                    "results. The list of skipped samples says why: data.loading.failures.skipped_file for training, "
                    "skipped_*.jsonl in the log folder for an evaluation"
                )
        if trainer.state.fn != TrainerFn.FITTING:
            self._finish_evaluation(trainer, failures)

    def _finish_evaluation(self, trainer: Any, failures: FailurePolicy) -> None:
        stage = trainer.state.fn.value
        listed_in = skipped_file(trainer, _SOURCES.get(stage, stage))
        own = self._left_out.get(stage, Counter())
        counts = [self._samples[stage], *(own[kind] for kind in _KINDS)]
        summed = trainer.strategy.reduce(torch.tensor(counts, device=trainer.strategy.root_device), reduce_op="sum")
        num_samples, *skipped = summed.tolist()
        kinds = dict(zip(_KINDS, skipped, strict=True))
        if any(skipped):
            rank_zero_warn(
                f"{sum(skipped)} of {num_samples} samples were left out ({in_words(kinds)}); their questions count "
                f"neither as right nor as wrong. They are listed in {listed_in}"
            )
        failures.check_share(kinds, num_samples, listed_in, "data.loading.failures.max_skipped_share")
