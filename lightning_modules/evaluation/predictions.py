"""Predictions as JSON lines: the record of one answered question, written by a callback and read back."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from components.answer_scores import is_exact_match, token_f1
from components.turns import TurnAnswer
from lightning_modules.evaluation.asked_turns import AskedTurn, asked_turns
from lightning_modules.evaluation.scoring import SKIPPED_KEY


class Prediction(NamedTuple):
    """A question, its reference answer and the model's answer: one line of ``predictions.jsonl``.

    Files of earlier versions lack some of the fields. They have a line for the first question of each conversation.
    """

    key: str  # sample
    id: str  # conversation of the sample
    source: str
    category: str
    length: str  # label of the video's length, by which accuracies are reported
    question: str
    answer: str
    prediction: str
    correct: bool
    media: str = ""  # file that the sample was made from, where its shard names one
    turn: int = 1  # number of the question in its conversation
    num_turns: int = 0  # questions of the conversation; 0 if unknown
    seconds: float | None = None  # length of the videos that the conversation shows
    f1: float | None = None  # of the words of answer and prediction
    nll: float | None = None  # of the reference answer, summed over its tokens
    tokens: int = 0  # of the reference answer
    options: tuple[str, ...] = ()  # possible answers; empty for an open question
    option_scores: tuple[float, ...] = ()  # mean log likelihood per token of each option
    choice: str | None = None  # the most likely option
    choice_correct: bool | None = None  # whether it is the reference answer


def score_answers(questions: Sequence[Any], answers: Sequence[TurnAnswer]) -> list[Prediction]:
    """Score the answers of a batch.

    The length of a video is the one that its sample's ``meta`` names as ``length``, else its number of frames.

    Args:
        questions: Conversations of a batch; ``datamodules.batch.Question`` has what is read.
        answers: What the model gives for each turn, conversation by conversation.

    Returns:
        One prediction for each turn, in the same order; none for the empty sample of a skipped batch.
    """
    return [
        _scored(asked, answer)
        for asked, answer in zip(asked_turns(questions), answers, strict=True)
        if asked.conversation.key != SKIPPED_KEY
    ]


def _scored(asked: AskedTurn, answer: TurnAnswer) -> Prediction:
    conversation, scores = asked.conversation, answer.option_scores
    chosen = max(range(len(scores)), key=scores.__getitem__) if asked.options and scores else None
    return Prediction(
        key=conversation.key,
        id=conversation.id,
        source=conversation.source,
        category=conversation.category,
        length=conversation.meta.get("length", str(conversation.num_frames)),
        question=asked.question,
        answer=asked.answer,
        prediction=answer.text,
        correct=is_exact_match(answer.text, asked.answer),
        media=conversation.meta.get("media", ""),
        turn=asked.number,
        num_turns=asked.num_turns,
        seconds=conversation.seconds,
        f1=token_f1(answer.text, asked.answer),
        nll=answer.nll,
        tokens=answer.num_tokens,
        options=asked.options,
        option_scores=scores,
        choice=None if chosen is None else asked.options[chosen],
        choice_correct=None if chosen is None else chosen == asked.right_option,
    )


def to_json_lines(predictions: Iterable[Prediction]) -> str:
    """One JSON object a line; the last line ends with a line break too."""
    return "".join(json.dumps(prediction._asdict(), ensure_ascii=False) + "\n" for prediction in predictions)


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions back.

    Args:
        path: JSON lines that ``PredictionWriter`` wrote. A last line without line break was not written
            completely and is ignored.

    Returns:
        The predictions in the order of the file.

    Raises:
        ValueError: A line is no prediction. It is not ignored, because the report would lack its question.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    predictions = []
    for number, line in enumerate(lines, start=1):
        try:
            predictions.append(_from_fields(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is no prediction ({error}): {line[:80]!r}. Remove the line to have its "
                "question asked again, or remove the file to ask all of them again"
            ) from error
    return predictions


def _from_fields(kind: str | None = None, **fields: Any) -> Prediction:
    if kind is not None:  # the category's name in files of earlier versions
        fields.setdefault("category", kind)
    prediction = Prediction(**fields)
    return prediction._replace(options=tuple(prediction.options), option_scores=tuple(prediction.option_scores))


class PredictionWriter(Callback):
    """Writes the answers of ``predict`` as JSON lines after each batch, so that a stopped run has its answers on disk.

    Every process writes its own file: the first one ``path``, the others files in the same folder that end in
    ``.rank1.jsonl`` and so on.

    Args:
        path: File to write. By default ``predictions.jsonl`` in the run's log folder.
        append: Append to an existing file, instead of raising an error.
    """

    def __init__(self, path: str | None = None, *, append: bool = False) -> None:
        self.path = path
        self.append = append
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file.

        Raises:
            FileExistsError: The file exists; answers of two runs in one file could not be distinguished.
        """
        folder = trainer.log_dir or trainer.default_root_dir  # asked on every rank: it is agreed on between them
        path = Path(self.path or Path(folder) / "predictions.jsonl")
        if trainer.global_rank:
            path = path.with_suffix(f".rank{trainer.global_rank}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("a" if self.append else "x", encoding="utf-8")
        except FileExistsError as error:
            raise FileExistsError(
                f"{path} holds answers of an earlier run; move it away, or give PredictionWriter another path"
            ) from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's answers."""
        assert self._file is not None
        self._file.write(to_json_lines(score_answers(batch.questions, outputs)))
        self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        assert self._file is not None
        rank_zero_info(f"The answers are in {self._file.name}")
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
