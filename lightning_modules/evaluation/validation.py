"""Evaluates batches: the loss of the reference answers, and whether the generated answers are right."""

from collections import Counter, defaultdict
from typing import Any

import torch

from components.answer_scores import is_exact_match
from components.model import text_of
from components.turns import answer_turns
from lightning_modules.evaluation.asked_turns import asked_turns
from lightning_modules.evaluation.scoring import NO_CATEGORY, SKIPPED_KEY, AccuracyCounter
from lightning_modules.interfaces import EvaluatedBatch, TrainingModule

MOST_CURVES = 20
"""Accuracies of the sources of a set are logged if it has at most so many."""

_LAST_TURN = 4  # turns from this one on are counted together


class ValidationMetrics:
    """Counts right answers over the batches of one validation or test, and logs losses and accuracies.

    Attributes:
        counter: Right answers of this rank by evaluation set, category, source and turn; of all ranks after
            ``log_accuracies``.
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
            The generated answers, one for each turn of each conversation.
        """
        model = module.built
        visual = model.visual_tokens(batch)
        text = text_of(batch)
        scored = model.language_model(visual, text)
        tokens = scored.num_tokens.sum()
        module.log(
            f"{stage}/loss/{name}",
            scored.nll.sum() / tokens.clamp(min=1),
            batch_size=int(tokens),
            add_dataloader_idx=False,
            sync_dist=True,
        )
        self.left_out[name] += len(batch.left_out)
        answers = answer_turns(model.language_model, visual, text, module.max_new_tokens, model.agree_on_maximum)
        for asked, answer in zip(asked_turns(batch.questions), answers, strict=True):
            conversation = asked.conversation
            if conversation.key == SKIPPED_KEY:
                continue
            labels = (name, conversation.category or NO_CATEGORY, conversation.source, _turn_label(asked.number))
            self.counter.add(labels, is_exact_match(answer, asked.answer))
        return answers

    def log_accuracies(self, module: TrainingModule, stage: str) -> None:
        """Log the accuracies over all ranks: overall, of every set, and of every category of question in a set.

        Of sets with several sources or turns, log the accuracies of each too; of sets with skipped samples, their
        number.
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
        self._log_groups(module, f"{stage}/accuracy_by_source", 2)
        self._log_groups(module, f"{stage}/accuracy_by_turn", 3)
        for accuracy in self.counter.by().values():
            module.log(f"{stage}/accuracy", accuracy.value, prog_bar=True)

    def _log_groups(self, module: TrainingModule, tag: str, position: int) -> None:
        """Log the accuracies by a label, of the sets that have several values of it but not very many."""
        of_set: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for (name, label), accuracy in self.counter.by(0, position).items():
            of_set[name][label] = accuracy.value
        for name, values in of_set.items():
            if 1 < len(values) <= MOST_CURVES:
                for label, value in values.items():
                    module.log(f"{tag}/{name}/{label}", value)


def _turn_label(number: int) -> str:
    return str(number) if number < _LAST_TURN else f"{_LAST_TURN}_and_later"
