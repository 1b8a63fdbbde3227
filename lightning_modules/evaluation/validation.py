"""Evaluates batches: the loss of the reference answers, and whether the generated answers are right."""

from collections import Counter
from typing import Any

import torch

from components.answer_scores import is_exact_match
from components.model import text_of
from lightning_modules.evaluation.scoring import NO_CATEGORY, SKIPPED_KEY, AccuracyCounter
from lightning_modules.interfaces import EvaluatedBatch, TrainingModule


class ValidationMetrics:
    """Counts right answers over the batches of one validation or test, and logs losses and accuracies.

    Attributes:
        counter: Right answers of this rank by evaluation set and category; of all ranks after ``log_accuracies``.
        left_out: Samples that this rank skipped, by evaluation set; of all ranks after ``log_accuracies``.
    """

    def __init__(self) -> None:
        self.counter = AccuracyCounter()
        self.left_out: Counter[str] = Counter()

    def of_batch(self, module: TrainingModule, batch: EvaluatedBatch, stage: str, name: str) -> list[str]:
        """Log the loss of one batch, answer its questions and count the right answers.

        Args:
            module: The module whose model is evaluated; logs the loss.
            batch: Questions with their reference answers.
            stage: ``val`` or ``test``.
            name: The evaluation set.

        Returns:
            The generated answers, one for each conversation.
        """
        visual = module.built.visual_tokens(batch)
        text = text_of(batch)
        language_model = module.built.language_model
        scored = language_model(visual, text)
        tokens = scored.num_tokens.sum()
        module.log(
            f"{stage}/loss/{name}",
            scored.nll.sum() / tokens.clamp(min=1),
            batch_size=int(tokens),
            add_dataloader_idx=False,
            sync_dist=True,
        )
        self.left_out[name] += len(batch.left_out)
        answers = language_model.generate(visual, text, module.max_new_tokens)
        for question, answer in zip(batch.questions, answers, strict=True):
            if question.key == SKIPPED_KEY:
                continue
            self.counter.add((name, question.category or NO_CATEGORY), is_exact_match(answer, question.answer))
        return answers

    def log_accuracies(self, module: TrainingModule, stage: str) -> None:
        """Log the accuracies over all ranks: overall, of every set, and of every category of question in a set.

        Of sets with skipped samples, log their number too.
        """
        world_size = module.trainer.world_size
        if world_size > 1:
            gathered: list[Any] = [None] * world_size
            torch.distributed.all_gather_object(gathered, (self.counter.counts(), self.left_out))
            self.counter, self.left_out = AccuracyCounter(), Counter()
            self.counter.merge(counts for counts, _ in gathered)
            for _, left_out in gathered:
                self.left_out.update(left_out)
        for name, count in self.left_out.items():
            if count:
                module.log(f"{stage}/skipped_samples/{name}", float(count))
        for (name,), accuracy in self.counter.by(0).items():
            module.log(f"{stage}/accuracy/{name}", accuracy.value)
        for (name, category), accuracy in self.counter.by(0, 1).items():
            module.log(f"{stage}/accuracy_by_category/{name}/{category}", accuracy.value)
        for accuracy in self.counter.by().values():
            module.log(f"{stage}/accuracy", accuracy.value, prog_bar=True)
