"""Counts the answer tokens of an optimizer step before the first of its accumulated batches is trained on."""

from collections import deque
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher

from components.interfaces import IGNORED_LABEL


class StepTokens(Callback):
    """Counts the answer tokens in all batches of the current optimizer step.

    The gradient of a step is the sum of its batches' gradients. Every answer token has the same weight only if all
    batches divide by the same number: the answer tokens of the step. It is known once all batches of the step are
    loaded (samples may be skipped), so they are loaded before the first one is trained on, and wait in host memory.
    After each trained batch one of the next step is loaded, so the load on the data workers stays even. Without
    gradient accumulation nothing changes.
    """

    def __init__(self) -> None:
        self._fetcher: _StepFetcher | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load ahead in the first epoch; a run that resumes within an epoch does not call ``on_train_epoch_start``."""
        self._look_ahead(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load ahead if the epoch has new data loaders, or accumulates and the epoch before did not."""
        self._look_ahead(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the batches."""
        self._fetcher = None

    def tokens_of_a_batch(self, trainer: Trainer) -> float | None:
        """Answer tokens of this rank's step, divided by ``trainer.accumulate_grad_batches``.

        Lightning divides every batch's loss by that number, also in the last step of an epoch, which may have fewer
        batches.

        Returns:
            The quotient; None without gradient accumulation.
        """
        if trainer.accumulate_grad_batches == 1:
            return None
        assert self._fetcher is not None  # there since the epoch's start
        return self._fetcher.answer_tokens / trainer.accumulate_grad_batches

    def _look_ahead(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        if trainer.accumulate_grad_batches > 1 and isinstance(loop._data_fetcher, _PrefetchDataFetcher):
            self._fetcher = _StepFetcher(trainer, loop._data_fetcher)
            loop._data_fetcher = self._fetcher


class _StepFetcher(_DataFetcher):
    """Takes batches from the data loader for Lightning's loop, and loads all batches of a step ahead.

    Lightning has no public hook for this: hooks see one batch at a time, when it is trained on.

    Args:
        trainer: Its loop takes the batches.
        earlier: The fetcher that it replaces, from which no batch was taken. Its iterator and loaded batches are used.
    """

    def __init__(self, trainer: Trainer, earlier: _PrefetchDataFetcher) -> None:
        super().__init__()
        self._trainer = trainer
        self._waiting: deque[tuple[Any, int]] = deque()  # batches with their answer tokens
        self._is_exhausted = False
        self._answer_tokens: int | None = None
        self.setup(earlier.combined_loader)
        self.reset()
        self.iterator = earlier.iterator
        for batch in earlier.batches:  # of data without a length
            self._take(batch)

    @property
    def answer_tokens(self) -> int:
        """Answer tokens of the last batch's step; after a restart within a step, of its remaining batches."""
        assert self._answer_tokens is not None  # a batch has been taken
        return self._answer_tokens

    def reset(self) -> None:
        """Begin an epoch."""
        super().reset()
        self._waiting.clear()
        self._is_exhausted = False
        self._answer_tokens = None

    def __next__(self) -> Any:
        """Hand out the next batch."""
        batches_a_step = self._trainer.accumulate_grad_batches
        done_of_step = self.fetched % batches_a_step
        self._fill(batches_a_step, done_of_step)
        if not self._waiting:
            self.done = True
            raise StopIteration
        if self._answer_tokens is None or done_of_step == 0:
            step = list(self._waiting)[: batches_a_step - done_of_step]
            self._answer_tokens = sum(tokens for _, tokens in step)
        batch, _ = self._waiting.popleft()
        self.fetched += 1
        self.done = not self._waiting and self._is_exhausted if self.length is None else self.fetched >= self.length
        return batch

    def _fill(self, batches_a_step: int, done_of_step: int) -> None:
        """Load as many batches as a step has, but none that the run or the epoch will not train on."""
        # If the epoch's length is unknown, one more batch shows whether a batch is the last one.
        wanted = batches_a_step + (self.length is None)
        if self._trainer.max_steps >= 0:
            left_of_run = (self._trainer.max_steps - self._trainer.global_step) * batches_a_step - done_of_step
            wanted = min(wanted, left_of_run)
        if self.length is not None:
            wanted = min(wanted, self.length - self.fetched)
        while len(self._waiting) < wanted and not self._is_exhausted:
            try:
                # Lightning's own fetcher counts what it loads; here it counts what is handed out.
                batch = self._load()
            except StopIteration:
                self._is_exhausted = True
            else:
                self._take(batch)

    def _take(self, batch: Any) -> None:
        labels = batch[0].labels  # [C, K]; nothing predicts a row's first token
        self._waiting.append((batch, int((labels[:, 1:] != IGNORED_LABEL).sum())))

    def _load(self) -> Any:
        assert self.iterator is not None  # Lightning begins an epoch before it asks for a batch
        self._start_profiler()
        try:
            return next(self.iterator)
        finally:
            self._stop_profiler()
