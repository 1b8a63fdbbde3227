"""Predictions as JSON lines: the record of one answered question, written by a callback and read back."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from components.answer_scores import is_exact_match
from lightning_modules.evaluation.scoring import SKIPPED_KEY


class Prediction(NamedTuple):
    """A question, its reference answer and the model's answer: one line of ``predictions.jsonl``."""

    key: str  # sample
    id: str  # conversation of the sample
    source: str
    category: str
    length: str  # label of the video's length, by which accuracies are reported
    question: str
    answer: str
    prediction: str
    correct: bool
    media: str = ""  # file that the sample was made from, where its shard names one; earlier files lack it


def score_answers(questions: Sequence[Any], answers: Sequence[str]) -> list[Prediction]:
    """Score the generated answers of a batch.

    The length of a video is the one that its sample's ``meta`` names as ``length``, else its number of frames.

    Args:
        questions: Questions of a batch; ``datamodules.batch.Question`` has what is read.
        answers: One generated answer for each question.

    Returns:
        One prediction for each question, in the same order; none for the empty sample of a skipped batch.
    """
    return [
        Prediction(
            key=question.key,
            id=question.id,
            source=question.source,
            category=question.category,
            length=question.meta.get("length", str(question.num_frames)),
            question=question.question,
            answer=question.answer,
            prediction=answer,
            correct=is_exact_match(answer, question.answer),
            media=question.meta.get("media", ""),
        )
        for question, answer in zip(questions, answers, strict=True)
        if question.key != SKIPPED_KEY
    ]


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
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is no prediction ({error}): {line[:80]!r}. Remove the line to have its "
                "question asked again, or remove the file to ask all of them again"
            ) from error
    return predictions


def _from_fields(kind: str | None = None, **fields: Any) -> Prediction:
    if kind is not None:  # the category's name in files of earlier versions
        fields.setdefault("category", kind)
    return Prediction(**fields)


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
