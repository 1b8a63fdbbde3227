"""The LightningModule: builds the parts, trains them, judges answers. What the parts compute is in ``components``."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from components.gather import FrameSelection
from components.interfaces import (
    FrameEncoder,
    LanguageModel,
    LossSchedule,
    MemoryBridge,
    Segmenter,
    VideoTextBatch,
)
from components.model import VideoLanguageModel, text_of
from lightning_modules.optimization import Optimization, build_optimizer, build_schedule, gradient_norm
from lightning_modules.ranks import largest_of_all_ranks, mean_over_ranks
from lightning_modules.scoring import LEFT_OUT, NO_KIND, AccuracyCounter, is_exact_match


class JudgedQuestion(Protocol):
    """What judging needs to know of a conversation; ``datamodules.batch.Question`` has it."""

    @property
    def key(self) -> str:
        """Key of the sample that the question belongs to."""

    @property
    def kind(self) -> str:
        """Kind of question, by which accuracies are also reported."""

    @property
    def question(self) -> str:
        """The question as asked."""

    @property
    def answer(self) -> str:
        """The reference answer."""


class JudgedBatch(VideoTextBatch, Protocol):
    """A batch whose conversations have reference answers."""

    @property
    def questions(self) -> Sequence[Any]:
        """One ``JudgedQuestion`` a conversation."""


class VideoLanguageModule(LightningModule):
    """Trains a memory-bridge video language model and judges its answers.

    Large parts arrive as factories and are built in ``configure_model``, where a strategy can shard them from the
    start; the bridge gets its widths from its neighbours, so no width stands twice in a config.

    Args:
        encoder: Builds the frame encoder.
        bridge: Builds the memory bridge from vision width D and language model width E.
        language_model: Builds the language model.
        segmenter: Cuts videos into segments.
        loss_schedule: After which segments the loss is taken; after the last one by default.
        frame_selection: Which frames of a segment the bridge reads; all by default.
        optimization: Learning rates by part, decay, schedule.
        max_new_tokens: Longest answer generated in validation, test and predict.
    """

    def __init__(
        self,
        encoder: Callable[[], FrameEncoder],
        bridge: Callable[[int, int], MemoryBridge],  # type: ignore[type-arg]  # the state is the bridge's own affair
        language_model: Callable[[], LanguageModel],
        segmenter: Segmenter,
        loss_schedule: LossSchedule | None = None,
        frame_selection: FrameSelection | None = None,
        optimization: Optimization = Optimization(),  # noqa: B008  only read
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__()
        self.make_encoder = encoder
        self.make_bridge = bridge
        self.make_language_model = language_model
        self.segmenter = segmenter
        self.loss_schedule = loss_schedule
        self.frame_selection = frame_selection
        self.optimization = optimization
        self.max_new_tokens = max_new_tokens
        self.model: VideoLanguageModel | None = None
        self.counter = AccuracyCounter()
        self._seed = 0

    def configure_model(self) -> None:
        """Build the parts; called by the trainer inside the strategy's sharding context."""
        if self.model is not None:
            return
        encoder = self.make_encoder()
        language_model = self.make_language_model()
        self.model = VideoLanguageModel(
            encoder=encoder,
            segmenter=self.segmenter,
            bridge=self.make_bridge(encoder.dim, language_model.dim),
            language_model=language_model,
            loss_schedule=self.loss_schedule,
            frame_selection=self.frame_selection,
            agree_on_maximum=lambda value: largest_of_all_ranks(value, self.device),
            mean_over_ranks=mean_over_ranks,
        )

    def configure_optimizers(self) -> Any:
        """AdamW with a rate for each part, warm-up and cosine by optimizer step."""
        optimizer = build_optimizer(self.built, self.optimization)
        schedule = build_schedule(optimizer, self.optimization, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def built(self) -> VideoLanguageModel:
        """The model.

        Raises:
            RuntimeError: ``configure_model`` has not run yet.
        """
        if self.model is None:
            raise RuntimeError("the parts are not built yet; call configure_model() first (the trainer does)")
        return self.model

    def on_train_start(self) -> None:
        """Note the run's seed, which a resumed run is started with again."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: JudgedBatch, batch_index: int) -> None:
        """Seed dropout from the run's seed, the rank and the batches before.

        A resumed run draws the masks that the uninterrupted one would have drawn, and no two ranks draw the same.
        """
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total  # Lightning types it too narrowly
        seeds = np.random.SeedSequence([self._seed, self.global_rank, progress.processed])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def training_step(self, batch: JudgedBatch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        output = self.built(batch)
        if not math.isfinite(output.loss.item()):
            keys = sorted({question.key for question in batch.questions})
            raise FloatingPointError(
                f"the loss of step {self.global_step} is {output.loss.item()}; samples of the batch: {keys}. "
                "Look at these samples, or lower the learning rate"
            )
        size = len(batch.questions)
        self.log("train/loss", output.loss.detach(), prog_bar=True, batch_size=size, sync_dist=True)
        if output.penalty is not None:
            self.log("train/bridge_penalty", output.penalty, batch_size=size, sync_dist=True)
        for index, value in enumerate(output.reading_losses if len(output.reading_losses) > 1 else ()):
            self.log(f"train/loss_after_reading/{index}", value, batch_size=size, sync_dist=True)
        if output.segment_counts.numel():
            self.log("train/segments_a_video", output.segment_counts.float().mean(), batch_size=size)
        self.log("train/answer_tokens", output.num_answer_tokens.float(), batch_size=size)
        loss: Tensor = output.loss
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log learning rates and gradient norms part by part."""
        settings: Any = self.trainer  # Lightning sets log_every_n_steps where a type checker does not see it
        every = settings.log_every_n_steps
        if not every or (self.global_step + 1) % every:  # Lightning writes what was logged in every n-th step
            return
        for group in optimizer.param_groups:
            self.log(f"learning_rate/{group['name']}", float(group["lr"]))
        for name, part in self.built.named_children():
            trainable = [p for p in part.parameters() if p.requires_grad]
            if trainable:
                self.log(f"gradient_norm/{name}", gradient_norm(trainable))

    def on_validation_epoch_start(self) -> None:
        """Start counting answers."""
        self.counter = AccuracyCounter()

    def on_test_epoch_start(self) -> None:
        """Start counting answers."""
        self.counter = AccuracyCounter()

    def validation_step(self, batch: JudgedBatch, batch_index: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        """Score and answer one batch; gives the generated answers, which callbacks may show."""
        return self._judge(batch, "val", dataloader_idx)

    def test_step(self, batch: JudgedBatch, batch_index: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        """Like ``validation_step``."""
        return self._judge(batch, "test", dataloader_idx)

    def predict_step(self, batch: JudgedBatch, batch_index: int, dataloader_idx: int = 0) -> list[str]:
        """Generated answers, one a conversation."""
        return self.built.generate(batch, self.max_new_tokens)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies."""
        self._log_accuracies("val")

    def on_test_epoch_end(self) -> None:
        """Log the accuracies."""
        self._log_accuracies("test")

    def evaluation_name(self, stage: str, loader: int) -> str:
        """Name of an evaluation set.

        Args:
            stage: ``val`` or ``test``.
            loader: Index of its data loader.

        Returns:
            The name that the datamodule gives it; the index where data loaders came without a datamodule.
        """
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            return str(loader)
        names: Sequence[str] = getattr(datamodule, f"{'validation' if stage == 'val' else stage}_names")
        return names[loader]

    def _judge(self, batch: JudgedBatch, stage: str, loader: int) -> list[str]:
        visual = self.built.look(batch)
        text = text_of(batch)
        language_model = self.built.language_model
        scored = language_model(visual, text)
        name = self.evaluation_name(stage, loader)
        tokens = scored.num_tokens.sum()
        self.log(
            f"{stage}/loss/{name}",
            scored.nll.sum() / tokens.clamp(min=1),
            batch_size=int(tokens),
            add_dataloader_idx=False,
            sync_dist=True,
        )
        answers = language_model.generate(visual, text, self.max_new_tokens)
        for question, answer in zip(batch.questions, answers, strict=True):
            if question.key == LEFT_OUT:
                continue
            self.counter.add((name, question.kind or NO_KIND), is_exact_match(answer, question.answer))
        return answers

    def _log_accuracies(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.counter.counts())
            self.counter = AccuracyCounter()
            self.counter.merge(gathered)
        for (name,), accuracy in self.counter.by(0).items():
            self.log(f"{stage}/accuracy/{name}", accuracy.value)
        for (name, kind), accuracy in self.counter.by(0, 1).items():
            self.log(f"{stage}/accuracy_by_kind/{name}/{kind}", accuracy.value)
        for accuracy in self.counter.by().values():
            self.log(f"{stage}/accuracy", accuracy.value, prog_bar=True)
