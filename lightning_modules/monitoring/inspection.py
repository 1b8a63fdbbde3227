"""Shows segments, attention and answers of single videos in TensorBoard and in trackers."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from components.interfaces import TEXT_ONLY
from lightning_modules.evaluation.asked_turns import asked_turns
from lightning_modules.interfaces import EvaluatedBatch, as_training_module
from lightning_modules.monitoring.model_listener import ModelListener
from lightning_modules.monitoring.video_figures import SegmentedVideo, draw_video
from lightning_modules.monitoring.video_sinks import VideoSink, find_sinks

_NOT_OF_A_TAG = re.compile(r"[^-/\w.]")
"""A character that TensorBoard does not allow in a name."""


class VideoInspection(Callback):
    """Shows, after every validation, how the model segmented a few videos and what it answered.

    For the first videos of every validation set: the frames with the segment boundaries, the similarity of neighbouring
    frames and its depth, the attention over the segments of the first reader that has it (and whose weights are not
    sharded: not with ZeRO-3 and FSDP2), and question, reference and answer as text. For every set: a histogram of the
    number of segments a video.

    Nothing is computed twice: hooks record the outputs of encoder and readers while validation runs. Only the first
    rank shows its videos, and makes no collective call. They go to every logger that accepts figures and text:
    ``TensorBoardLogger`` and this project's trackers. Without one it warns once.

    Args:
        num_videos: Videos to show of every validation set.

    Raises:
        ValueError: ``num_videos`` is not positive.
    """

    def __init__(self, num_videos: int = 2) -> None:
        if num_videos < 1:
            raise ValueError(f"num_videos must be at least 1, got {num_videos}; leave the callback out to show none")
        self.num_videos = num_videos
        self._listener: ModelListener | None = None
        self._sinks: list[VideoSink] = []
        self._num_shown: dict[str, int] = {}
        self._segment_counts: dict[str, list[Tensor]] = {}
        self._has_warned = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start recording outputs of the model.

        Raises:
            TypeError: The LightningModule is another than this project's.
        """
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        module = as_training_module(pl_module, self)
        self._sinks = self._find_sinks(trainer)
        if self._sinks:
            self._num_shown, self._segment_counts = {}, {}
            self._listener = ModelListener(module.built)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remove the records of the batch before."""
        if self._listener is not None:
            self._listener.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: EvaluatedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the segment counts, and show the batch's first videos until ``num_videos`` are shown."""
        listener = self._listener
        num_videos = batch.frame_counts.numel()
        if listener is None or not num_videos:
            return
        name = as_training_module(pl_module, self).evaluation_name("val", dataloader_idx)
        self._segment_counts.setdefault(name, []).append(listener.segment_counts().cpu())
        num_shown = self._num_shown.get(name, 0)
        num_new = min(self.num_videos - num_shown, num_videos)
        if num_new > 0:
            self._num_shown[name] = num_shown + num_new
            with trainer.precision_plugin.val_step_context():
                videos = listener.describe_videos(batch)
            for index in range(num_new):
                self._show(trainer.global_step, name, batch, outputs, index, videos[index])
        listener.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the histograms and stop recording."""
        if self._listener is not None:
            for name, counts in self._segment_counts.items():
                for sink in self._sinks:
                    sink.add_histogram(f"segments_a_video/{name}", torch.cat(counts), trainer.global_step)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        self._stop()

    def _show(
        self, step: int, name: str, batch: EvaluatedBatch, answers: Sequence[str], video: int, picture: SegmentedVideo
    ) -> None:
        asked = [row for row, media in enumerate(batch.video_index.tolist()) if video in media]
        if not asked:
            return
        first = batch.questions[asked[0]]
        media = first.meta.get("media")  # the converters write the file's name; several samples may show one file
        key = first.key + _number_in_sample(batch, first.key, video)
        figure = draw_video(picture._replace(title=key if media is None else f"{media} ({key})"))
        label = key if media is None else f"{_NOT_OF_A_TAG.sub('_', media)}/{key}"
        columns = ("question", "reference", "generated")
        about = [batch.questions[row] for row in asked]
        rows = [
            (turn.question, turn.answer, answer)
            for turn, answer in zip(asked_turns(batch.questions), answers, strict=True)
            if any(turn.conversation is each for each in about)
        ]
        for sink in self._sinks:
            sink.add_figure(f"videos/{name}/{label}", figure, step)
            sink.add_table(f"answers/{name}/{label}", columns, rows, step)

    def _find_sinks(self, trainer: Trainer) -> list[VideoSink]:
        sinks = find_sinks(trainer)
        if sinks:
            return sinks
        if not self._has_warned:
            self._has_warned = True
            found = [type(logger).__name__ for logger in trainer.loggers]
            warnings.warn(
                f"VideoInspection shows nothing: none of the loggers {found} takes figures and text. Add a "
                "TensorBoardLogger, or leave the callback out",
                stacklevel=2,
            )
        return []

    def _stop(self) -> None:
        if self._listener is not None:
            self._listener.remove()
        self._listener, self._sinks = None, []


def _number_in_sample(batch: EvaluatedBatch, key: str, video: int) -> str:
    """``/0``, ``/1``, ... for the media of a sample that has several; nothing if it has one."""
    of_sample = {
        shown
        for question, media in zip(batch.questions, batch.video_index.tolist(), strict=True)
        for shown in media
        if question.key == key and shown != TEXT_ONLY
    }
    return f"/{sorted(of_sample).index(video)}" if len(of_sample) > 1 else ""
