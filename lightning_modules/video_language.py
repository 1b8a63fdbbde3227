"""The LightningModule: builds the model from its parts, trains it and evaluates it. The model is in ``components``."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from components.building import MakeReader, MakeReducer, ReaderSettings, build_model
from components.interfaces import (
    FrameEncoder,
    FrameResampling,
    FrameScorer,
    FrameSelection,
    LanguageModel,
    LossSchedule,
    PatchPooling,
    PictureLayout,
    Projector,
    Segmenter,
    StreamSchedule,
)
from components.model import VideoLanguageModel
from components.model_output import ModelOutput
from components.newline import Newline
from components.turns import TurnAnswer
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from lightning_modules.evaluation.asked_turns import asked_turns
from lightning_modules.evaluation.validation import ValidationMetrics
from lightning_modules.interfaces import EvaluatedBatch, TrainingModule
from lightning_modules.logging_steps import logs_after_this_step
from lightning_modules.optimization import Optimization, RateSchedule, build_optimizer
from lightning_modules.optimization.accumulation import ResumeAtStepStart, is_accumulating
from lightning_modules.optimization.adamw import PartwiseAdamW
from lightning_modules.optimization.averages import AveragesInValidation
from lightning_modules.optimization.freezing import Freezing
from lightning_modules.optimization.non_finite import NonFiniteSteps
from lightning_modules.optimization.rate_schedule import steps_per_epoch
from lightning_modules.optimization.step_losses import StepLosses
from lightning_modules.optimization.step_tokens import StepTokens
from lightning_modules.rank_agreement import largest_of_all_ranks, mean_over_ranks
from lightning_modules.sample_errors import naming_the_sample
from lightning_modules.start_check import StartCheck, check_settings


class VideoLanguageModule(TrainingModule):
    """Trains and evaluates a video language model with a memory bridge.

    Large parts are given as factories and built in ``configure_model``, where the strategy can shard them from the
    start. The bridge gets its widths from encoder and language model, so a config states each width once.

    Args:
        encoder: Builds the frame encoder.
        language_model: Builds the language model.
        segmenter: Cuts videos into segments.
        bridge: Builds the memory bridge from the width of a patch and language model width E.
        frame_selection: Which frames of a segment the bridge reads; all by default.
        reducer: Builds what leaves fewer tokens of a segment before the bridge reads them.
        readers: Several readers by the names of their visual streams, instead of ``bridge``, ``frame_selection`` and
            ``reducer``.
        projector: Builds from vision width D and E what maps patches to another width.
        patch_pooling: Builds from the width of a patch what makes fewer patches of every frame.
        newline: Builds from E the learned vector that ``<newline>`` in ``visual_prompt`` shows.
        picture_layout: Builds from E what arranges the tiles of a picture.
        frame_resampling: Which frames of a video are cut into segments; by default all, each once.
        frame_scorer: Builds what tells ``frame_resampling`` how well each frame fits the question.
        visual_prompt: Words and streams that replace ``<video>``, such as ``"Some frames:<frames>"``; by default the
            streams in their order.
        stream_schedule: Which streams are left out of a training step; none by default.
        loss_schedule: After which segments the loss is computed; by default after the last one.
        optimization: Learning rate and weight decay of each part, schedule, and when frozen parts begin to train.
        max_new_tokens: Longest answer generated in validation, test and predict.
        initial_weights: Checkpoint or export of another run, from whose weights training begins; or one for each named
            part, such as ``{bridge: CHECKPOINT}`` or, of several readers, ``{memory: CHECKPOINT}``. A resumed run
            ignores it.
    """

    adamw: PartwiseAdamW

    def __init__(
        self,
        encoder: Callable[[], FrameEncoder],
        language_model: Callable[[], LanguageModel],
        segmenter: Segmenter,
        bridge: MakeReader | None = None,
        frame_selection: FrameSelection | None = None,
        reducer: MakeReducer | None = None,
        readers: dict[str, ReaderSettings] | None = None,
        projector: Callable[[int, int], Projector] | None = None,
        patch_pooling: Callable[[int], PatchPooling] | None = None,
        newline: Callable[[int], Newline] | None = None,
        picture_layout: Callable[[int], PictureLayout] | None = None,
        frame_resampling: FrameResampling | None = None,
        frame_scorer: Callable[[], FrameScorer] | None = None,
        visual_prompt: str | None = None,
        stream_schedule: StreamSchedule | None = None,
        loss_schedule: LossSchedule | None = None,
        optimization: Optimization = Optimization(),  # noqa: B008  only read
        max_new_tokens: int = 16,
        initial_weights: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.make_encoder, self.make_projector, self.make_patch_pooling = encoder, projector, patch_pooling
        self._build = partial(
            build_model,
            encoder=encoder,
            language_model=language_model,
            segmenter=segmenter,
            bridge=bridge,
            frame_selection=frame_selection,
            reducer=reducer,
            readers=readers,
            projector=projector,
            patch_pooling=patch_pooling,
            newline=newline,
            picture_layout=picture_layout,
            frame_resampling=frame_resampling,
            frame_scorer=frame_scorer,
            visual_prompt=visual_prompt,
            loss_schedule=loss_schedule,
        )
        self.segmenter, self.stream_schedule, self.optimization = segmenter, stream_schedule, optimization
        self.max_new_tokens, self.initial_weights = max_new_tokens, initial_weights
        self.model: VideoLanguageModel | None = None
        self.metrics = ValidationMetrics()
        self._seed = 0
        self.non_finite_steps = NonFiniteSteps(optimization.non_finite)
        self.step_tokens, self._step_losses = StepTokens(), StepLosses()
        self._rates: RateSchedule | None = None

    def configure_model(self) -> None:
        """Build the parts; called by the trainer inside the strategy's sharding context."""
        if self.model is not None:
            return
        self.model = self._build(
            agree_on_maximum=lambda value: largest_of_all_ranks(value, self.device), mean_over_ranks=mean_over_ranks
        )
        if self._trainer is not None:
            stage = None if self.trainer.state.fn is None else self.trainer.state.fn.value
            datamodule = getattr(self.trainer, "datamodule", None)
            check_settings(self.model, stage, datamodule, self.max_new_tokens, stream_schedule=self.stream_schedule)

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks of every training run. Frozen gradients are removed before the others are checked."""
        callbacks: list[Callback] = [StartCheck(), Freezing(), self.non_finite_steps, self.step_tokens]
        averaged = [AveragesInValidation()] if self.optimization.validate_averages else []
        return [*callbacks, ResumeAtStepStart(), *averaged]

    def configure_optimizers(self) -> PartwiseAdamW:
        """AdamW with settings for each part; ``on_before_optimizer_step`` sets the learning rates."""
        self.adamw = build_optimizer(self.built, self.optimization)
        return self.adamw

    @property
    def rates(self) -> RateSchedule:
        """The learning rates of this run; known once training has started."""
        if self._rates is None:
            trainer = self.trainer
            self._rates = RateSchedule(self.optimization, trainer.max_steps, partial(steps_per_epoch, trainer))
        return self._rates

    @property
    def built(self) -> VideoLanguageModel:
        """The model.

        Raises:
            RuntimeError: ``configure_model`` has not run yet.
        """
        if self.model is None:
            raise RuntimeError("the parts are not built yet; call configure_model() first (the trainer does)")
        return self.model

    def on_fit_start(self) -> None:
        """Load the initial weights, unless the run is resumed.

        Raises:
            TypeError: The strategy is not one of this project, so it cannot open checkpoints.
        """
        self._rates = None
        if self.initial_weights is not None and self.trainer.ckpt_path is None:
            strategy = self.trainer.strategy
            if not isinstance(strategy, PortableCheckpoints):
                raise TypeError(
                    f"model.initial_weights needs a strategy of lightning_modules.strategies, got {strategy}"
                )
            strategy.load_weights(self.initial_weights)

    def on_train_start(self) -> None:
        """Store the run's seed; a resumed run has the same."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: EvaluatedBatch, batch_index: int) -> None:
        """Seed dropout from the run's seed, the rank and the number of earlier batches.

        A resumed run thus draws the same dropout masks as an uninterrupted one, and every rank draws others.
        """
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total  # Lightning types it too narrowly
        seeds = np.random.SeedSequence([self._seed, self.global_rank, progress.processed])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def training_step(self, batch: EvaluatedBatch, batch_index: int) -> Tensor:
        """Loss of one batch; divided by the step's batches, its part of the mean over the step's answer tokens."""
        left_out = frozenset[str]()
        if self.stream_schedule is not None:
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
            left_out = self.stream_schedule.left_out(progress.processed)
        with naming_the_sample(batch.questions):
            tokens = self.step_tokens.tokens_of_a_batch(self.trainer)
            output: ModelOutput = self.built(batch, tokens, left_out)
        self._log_output(output, len(batch.questions))
        return output.loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rates and log them."""
        self.rates.apply(optimizer.param_groups, self.global_step)
        # DeepSpeed calls this for every batch of a step.
        if not logs_after_this_step(self.trainer) or is_accumulating(self.trainer):
            return
        for group in optimizer.param_groups:
            self.log(f"learning_rate/{group['name']}", float(group["lr"]))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Run the optimizer, which may skip the step; then count the step."""
        super().optimizer_step(*args, **kwargs)
        self.non_finite_steps.count(self.trainer, self.adamw)

    def on_validation_epoch_start(self) -> None:
        """Start counting answers."""
        self.metrics = ValidationMetrics()

    def on_test_epoch_start(self) -> None:
        """Start counting answers."""
        self.metrics = ValidationMetrics()

    def validation_step(self, batch: EvaluatedBatch, batch_index: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        """Evaluate one batch; returns the generated answer of every turn, which callbacks show."""
        with naming_the_sample(batch.questions):
            return self.metrics.of_batch(self, batch, "val", self.evaluation_name("val", dataloader_idx))

    def test_step(self, batch: EvaluatedBatch, batch_index: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        """Like ``validation_step``."""
        with naming_the_sample(batch.questions):
            return self.metrics.of_batch(self, batch, "test", self.evaluation_name("test", dataloader_idx))

    def predict_step(self, batch: EvaluatedBatch, batch_index: int, dataloader_idx: int = 0) -> list[TurnAnswer]:
        """Answer every turn of every conversation, and score its reference answer and options."""
        options = [asked.options for asked in asked_turns(batch.questions)]
        with naming_the_sample(batch.questions):
            return self.built.evaluate_turns(batch, self.max_new_tokens, options)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies."""
        self.metrics.log_accuracies(self, "val")

    def on_test_epoch_end(self) -> None:
        """Log the accuracies."""
        self.metrics.log_accuracies(self, "test")

    def evaluation_name(self, stage: str, loader: int) -> str:
        """Name of an evaluation set.

        Args:
            stage: ``val`` or ``test``.
            loader: Index of its data loader.

        Returns:
            Its name in the datamodule; without a datamodule the index.
        """
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            return str(loader)
        names: Sequence[str] = datamodule.names("validation" if stage == "val" else stage)
        return names[loader]

    def _log_output(self, output: ModelOutput, size: int) -> None:
        """Log the losses of an optimizer step after its last batch, which has ``size`` conversations.

        Losses are means over all answer tokens of the step; over all ranks in the steps that the logger writes, else of
        this rank.
        """
        self._step_losses.add(output, self.trainer.accumulate_grad_batches)
        if is_accumulating(self.trainer):
            return
        losses = self._step_losses.take()
        values = torch.stack([value.float() for value in losses.values()])
        if logs_after_this_step(self.trainer):  # all ranks wait for one another here
            values = self.trainer.strategy.reduce(values, reduce_op="mean")
        for name, value in zip(losses, values, strict=True):
            self.log(name, value, prog_bar=name == "train/loss", batch_size=size)
        if output.segment_counts.numel():
            self.log("train/segments_a_video", output.segment_counts.float().mean(), batch_size=size)
        self.log("train/answer_tokens", output.num_answer_tokens.float(), batch_size=size)
