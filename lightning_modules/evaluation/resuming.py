"""Continues an evaluation that was stopped: reads what its folder holds and finds the samples still to be asked."""

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lightning_modules.evaluation.predictions import Prediction, read_predictions

PREDICTIONS = "predictions.jsonl"
SKIPPED = "skipped.jsonl"
EVALUATION = "evaluation.json"
"""Says what was evaluated, so that answers of different evaluations do not mix in one folder."""


class Samples(Protocol):
    """What is asked of the evaluated samples; ``datamodules.shards.shard_reader.ShardReader`` has it."""

    def __len__(self) -> int:
        """Number of samples."""

    def entry(self, index: int) -> Any:
        """A sample's ``key`` and ``num_conversations``."""

    def entries(self) -> Iterable[Any]:
        """``entry`` of every sample, in order."""

    def shard(self, index: int) -> Any:
        """A sample's shard, with its ``url``."""


class SkippedQuestions(NamedTuple):
    """The conversations that have no answers because their sample was skipped."""

    samples: list[dict[str, Any]]  # one record for each skipped sample
    num_skipped: int  # conversations of these samples
    num_conversations: int  # of all samples


def begin_evaluation(
    out: Path, about: dict[str, Any], restart: bool, earlier_form: Mapping[str, Any] | None = None
) -> list[Prediction]:
    """Begin an evaluation, or continue the one in the folder.

    Args:
        out: The evaluation's folder; created if it is missing.
        about: What is evaluated. Stored in the folder, and compared with what is stored there.
        restart: Delete the answers in the folder first.
        earlier_form: The values in ``about`` that an earlier version stored in another form.

    Returns:
        The answers that the folder already holds.

    Raises:
        ValueError: The folder holds answers of an evaluation of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    predictions, evaluation, skipped = out / PREDICTIONS, out / EVALUATION, out / SKIPPED
    if restart:
        predictions.unlink(missing_ok=True)
        evaluation.unlink(missing_ok=True)
    if not predictions.exists() or not (predictions.stat().st_size or skipped.exists()):
        skipped.unlink(missing_ok=True)
        evaluation.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return []
    earlier = json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.exists() else {}
    if earlier not in (about, {**about, **(earlier_form or {})}):
        differing = sorted(key for key in {*earlier, *about} if earlier.get(key) != about.get(key))
        raise ValueError(
            f"{out} holds answers of another evaluation: {', '.join(differing)} differ. Choose another --out, or give "
            "--restart to ask all questions again"
        )
    return read_predictions(predictions)


def split_answered(
    samples: Samples, predictions: Sequence[Prediction], skipped: Container[tuple[str, str]] = ()
) -> tuple[list[Prediction], list[int]]:
    """Find the samples that are still to be asked.

    Args:
        samples: The samples.
        predictions: The answers so far. The last batch may be incomplete, if writing it was interrupted.
        skipped: Shard and key of the samples that were skipped; they are not asked again.

    Returns:
        The answers of the samples whose conversations are all answered, turn by turn, and the indexes of the samples
        still to be asked.
    """
    by_key: defaultdict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_key[prediction.key].append(prediction)
    complete: list[Prediction] = []
    remaining = []
    for index in range(len(samples)):
        entry = samples.entry(index)
        answered = by_key[entry.key]
        needed = _num_answers(answered, entry.num_conversations)
        if needed:
            complete += answered[:needed]
            del answered[:needed]  # another shard may have a sample of the same key
        elif (samples.shard(index).url, entry.key) not in skipped:
            remaining.append(index)
    return complete, remaining


def skipped_questions(samples: Samples, skipped: Mapping[tuple[str, str], Mapping[str, Any]]) -> SkippedQuestions:
    """Count the conversations of skipped samples.

    Args:
        samples: The samples.
        skipped: Shard and key of every skipped sample -> its line in ``skipped.jsonl``.
    """
    records = []
    num_conversations = num_skipped = 0
    for index, entry in enumerate(samples.entries()):
        num_conversations += entry.num_conversations
        line = skipped.get((samples.shard(index).url, entry.key))
        if line is not None:
            num_skipped += entry.num_conversations
            records.append({name: value for name, value in line.items() if name != "position"})
    return SkippedQuestions(records, num_skipped, num_conversations)


def check_turns(
    samples: Samples, predictions: Sequence[Prediction], num_turns: Callable[[int], Sequence[int]], out: Path
) -> list[Prediction]:
    """Complete predictions of earlier versions, which asked the first question of each conversation only.

    Args:
        samples: The samples.
        predictions: The answers so far.
        num_turns: Gives the number of turns of each conversation of a sample, by its index.
        out: The evaluation's folder, for the message.

    Returns:
        The predictions, each with the number of turns of its conversation.

    Raises:
        ValueError: Some of these conversations have several turns, so the answers to the later ones are missing.
    """
    earlier = {prediction.key for prediction in predictions if not prediction.num_turns}
    if not earlier:
        return list(predictions)
    for index, entry in enumerate(samples.entries()):
        several = [count for count in num_turns(index) if count > 1] if entry.key in earlier else []
        if several:
            raise ValueError(
                f"{out} holds answers of an earlier version, which asked only the first question of every "
                f"conversation; sample {entry.key!r} has a conversation of {several[0]}. Choose another --out, or "
                "give --restart to ask all questions again"
            )
    return [prediction if prediction.num_turns else prediction._replace(num_turns=1) for prediction in predictions]


def _num_answers(answered: Sequence[Prediction], num_conversations: int) -> int:
    """How many answers the first conversations have; 0 if some are missing."""
    needed = 0
    for _ in range(num_conversations):
        if needed >= len(answered):
            return 0
        needed += max(answered[needed].num_turns, 1)
    return needed if needed <= len(answered) else 0
