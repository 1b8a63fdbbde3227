"""Evaluates a model on a benchmark: any number of processes, each item answered once, and a stopped run continues.

Every process writes a file of answers of its own, ``answers.0-of-4.jsonl`` and so on. The items about the same media
belong to one process, whatever was answered before, so processes need not talk to each other.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from command_errors import explain
from components.model import VideoLanguageModel
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from datamodules.errors import SampleError
from membridge.answer_file import AnswerFile, check_settings, read_answers
from membridge.evaluation.asked_item import AskedItem, check_line, is_about, to_line
from membridge.evaluation.item_answers import AskingSettings, ask_items, read_parts
from membridge.evaluation.scorers import SCORERS, Scorer
from membridge.evaluation.timed_questions import ask_while_playing, check_can_play


class Share(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def of_environment(environment: Mapping[str, str] = os.environ) -> "Share":
        """As ``torchrun`` or ``srun`` tell; one process alone otherwise.

        Raises:
            ValueError: The numbers are no rank of a group.
        """
        for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank in environment and world in environment:
                share = Share(int(environment[rank]), int(environment[world]))
                if not 0 <= share.rank < share.world:
                    raise ValueError(f"{rank} is {share.rank} and {world} is {share.world}; start all with one command")
                return share
        return Share()


class BenchmarkRun:
    """One benchmark, one model, and the answers so far.

    Args:
        benchmark: Writes the prompts.
        items: All questions.
        videos: The folder of media.
        out: Folder of the answers.
        settings: Model and settings as plain values; answers of others are not continued.
        asking: How questions are asked.
        timed: How a question about a video that plays is asked: by a streaming ``session`` that has seen the video up
            to the question's time, or about that part of it as a ``clip``.
        scorers: Which answers are right.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        items: Sequence[BenchmarkItem],
        videos: Path,
        out: Path,
        settings: Mapping[str, Any],
        asking: AskingSettings = AskingSettings(),  # noqa: B008  frozen
        timed: Literal["session", "clip"] = "session",
        scorers: Sequence[Scorer] = SCORERS,
    ) -> None:
        self.benchmark = benchmark
        self.items = list(items)
        self.videos = videos
        self.out = out
        self.settings = settings
        self.asking = asking
        self.timed = timed
        self.scorers = scorers

    def answers(self) -> dict[str, dict[str, Any]]:
        """The lines of all processes so far, by the id of the item; one with an answer stands before one without.

        Raises:
            ValueError: A file has answers of another model, with other settings or to other questions, or is damaged.
        """
        items = {item.id: item for item in self.items}
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.out.glob("answers.*-of-*.jsonl")):
            check_settings(path, self.settings)
            for line in read_answers(path):
                item = items.get(line["id"])
                if item is None or ("error" in line and not is_about(line, item)):
                    continue  # an item without answer may have been corrected, and is asked again
                check_line(line, item, path)
                if "error" not in line or item.id not in found:
                    found[item.id] = line
        return {item.id: found[item.id] for item in self.items if item.id in found}

    def is_complete(self) -> bool:
        """Whether every item has an answer, or a reason why it has none."""
        return len(self.answers()) == len(self.items)

    def answer(self, model: VideoLanguageModel, share: Share = Share()) -> None:  # noqa: B008  immutable
        """Answer this process's items that have no answer yet. Items without answer are tried again.

        Args:
            model: A model in evaluation mode.
            share: Which process this is.

        Raises:
            ValueError: The folder has answers of another model or other settings, another process writes the file, or
                a video cannot play to this model.
        """
        if self.timed == "session" and any(item.ask_ms is not None for item in self.items):
            check_can_play(model, self.items)
        done = {identity for identity, line in self.answers().items() if "error" not in line}
        # All questions about a medium are asked again where some are left: likelihoods depend on the questions beside
        # them by rounding, and the report of a stopped run must be that of one that was not.
        groups = [
            group for group in self.groups()[share.rank :: share.world] if any(item.id not in done for item in group)
        ]
        if not groups:
            return
        name = f"{type(self.benchmark).__name__} {share.rank + 1}/{share.world}" if share.world > 1 else None
        path = self.out / f"answers.{share.rank}-of-{share.world}.jsonl"
        with AnswerFile(path, self.settings) as file:
            progress = tqdm(total=sum(map(len, groups)), desc=name or self.out.name, unit="question", disable=None)
            failed = 0
            for items in groups:
                answers = self.ask_group(model, items)
                new = [(item, answer) for item, answer in zip(items, answers, strict=True) if item.id not in done]
                file.add(self.line(item, answer) for item, answer in new)
                failed += sum(bool(answer.error) for _, answer in new)
                progress.update(len(items))
                if failed:
                    progress.set_postfix(without_answer=failed)
            progress.close()

    def lines(self, model: VideoLanguageModel) -> dict[str, dict[str, Any]]:
        """Ask everything, and return the records by the id of the item; reads and writes no file of answers.

        Args:
            model: A model in evaluation mode.
        """
        asked = ((items, self.ask_group(model, items)) for items in self.groups())
        return {
            item.id: self.line(item, answer)
            for items, answers in asked
            for item, answer in zip(items, answers, strict=True)
        }

    def groups(self) -> list[list[BenchmarkItem]]:
        """Items about the same media, in the order of the first of each."""
        groups: dict[tuple[bool, tuple[MediaPart, ...]], list[BenchmarkItem]] = {}
        for item in self.items:
            plays = item.ask_ms is not None and self.timed == "session"
            groups.setdefault((plays, self._shown(item)), []).append(item)
        return list(groups.values())

    def _shown(self, item: BenchmarkItem) -> tuple[MediaPart, ...]:
        """What the model reads for an item."""
        if item.ask_ms is None or self.timed == "session":
            return item.media
        return tuple(part.until((part.start_ms or 0) + item.ask_ms) for part in item.media)

    def ask_group(self, model: VideoLanguageModel, items: Sequence[BenchmarkItem]) -> list[AskedItem]:
        """Answer questions about the same media.

        Args:
            model: A model in evaluation mode.
            items: The questions, one of ``groups``.

        Returns:
            The answers in the order of the questions; where the media cannot be read, the reason.
        """
        try:
            if items[0].ask_ms is not None and self.timed == "session":
                return ask_while_playing(model, self.benchmark, items, self.videos, self.asking)
            read = read_parts(model, self._shown(items[0]), self.videos)
        except (OSError, SampleError) as error:
            return [AskedItem(error=explain(error) or str(error))] * len(items)
        return ask_items(model, self.benchmark, items, read, self.asking)

    def line(self, item: BenchmarkItem, answer: AskedItem) -> dict[str, Any]:
        """The record of an answer with its scores, as it is written to the file of answers."""
        scores: dict[str, float | None] = {}
        for scorer in self.scorers:
            if answer.error or (scorer.generates and not self.asking.max_new_tokens):
                continue
            score = scorer(item, answer)
            if score is not None:
                scores[scorer.name] = score.value if score.was_parsed else None
        return to_line(item, answer, scores)
