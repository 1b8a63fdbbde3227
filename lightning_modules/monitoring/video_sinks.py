"""Where pictures and tables of single videos are shown: TensorBoard, and trackers that are loggers of this project."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor


class VideoSink(ABC):
    """Something that shows pictures, tables and histograms by name and step."""

    @abstractmethod
    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """Show a picture."""

    @abstractmethod
    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """Show a table of text."""

    @abstractmethod
    def add_histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show how often values occur; ``values`` is ``[N]``."""


class SummaryWriterSink(VideoSink):
    """Shows in TensorBoard.

    Args:
        writer: TensorBoard's ``SummaryWriter``, or what has its methods.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """Show a picture."""
        self._writer.add_figure(name, figure, step)

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """Show a table as Markdown text."""
        self._writer.add_text(name, markdown_table(columns, rows), step)

    def add_histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show how often values occur."""
        self._writer.add_histogram(name, values, step)


def find_sinks(trainer: Trainer) -> list[VideoSink]:
    """The loggers of a trainer that show pictures.

    Args:
        trainer: The trainer.

    Returns:
        One sink for each of them, in their order.
    """
    sinks: list[VideoSink] = []
    for logger in trainer.loggers:
        if isinstance(logger, VideoSink):
            sinks.append(logger)
            continue
        experiment = getattr(logger, "experiment", None)
        if all(hasattr(experiment, method) for method in ("add_figure", "add_text", "add_histogram")):
            sinks.append(SummaryWriterSink(experiment))
    return sinks


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; line breaks in cells become spaces."""
    head = [_markdown_row(columns), "|" + "---|" * len(columns)]
    return "\n".join([*head, *(_markdown_row(row) for row in rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
