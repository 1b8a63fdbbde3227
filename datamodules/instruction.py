"""The LightningDataModule: makes batches from sources, and resumes training exactly from one integer.

``state_dict`` has the number of draws that were trained on (samples, or groups of their conversations). Batches that
were only prefetched do not count, so none is lost. Beside it is everything that fixes the order, for a check.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.conversations import load_tokenizer
from datamodules.dataset import ConversationDataset
from datamodules.failures import FailurePolicy
from datamodules.loader import LateLoader, Loading, ResumableLoader, Source, batch_loader, refuse_other_sampler
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.order.draws import SampleTable, TiledPictures, stated_frames_of, tabulate
from datamodules.order.fingerprint import check_facts, order_facts
from datamodules.order.global_batches import GlobalBatches, global_batches
from datamodules.order.rank_batches import EvaluationBatches, TrainingBatches
from datamodules.order.stream import source_samples
from datamodules.order.text_tokens import measure_text_tokens
from datamodules.order.training_order import TrainingOrder
from datamodules.read_batches import ReadBatches, skipped_file
from datamodules.shards.shard_reader import ShardReader, open_shards
from datamodules.start_sample import StartReader, StartSample


class InstructionDataModule(LightningDataModule):
    """Video, image and text conversations from shards.

    This module splits every global batch over the ranks, so the trainer must not add a sampler of its own:
    ``configs/base.yaml`` sets ``trainer.use_distributed_sampler: false``.

    Args:
        tokenizer: Folder or hub name of a tokenizer with a chat template; by default the command line takes that of the
            language model.
        train: Training sources, mixed by weight.
        validation: Name -> shards; one data loader each, in this order.
        test: The same for ``test``.
        predict: The same for ``predict``.
        sampling: How many frames a video gives.
        pixels: Frame size and augmentation.
        order: The order of training samples.
        loading: Batch size, workers, handling of wrong samples.
        num_steps: Optimizer steps of the training run, which is then one epoch; -1 = an epoch is one pass. It does not
            change the order.
    """

    def __init__(
        self,
        tokenizer: str | None = None,
        train: list[Source] | None = None,
        validation: dict[str, str | list[str]] | None = None,
        test: dict[str, str | list[str]] | None = None,
        predict: dict[str, str | list[str]] | None = None,
        sampling: FrameSampling = FrameSampling(),  # noqa: B008  frozen
        pixels: PixelOptions = PixelOptions(),  # noqa: B008  frozen
        order: TrainingOrder = TrainingOrder(),  # noqa: B008  frozen
        loading: Loading = Loading(),  # noqa: B008  frozen
        num_steps: int = -1,
    ) -> None:
        super().__init__()
        self.tokenizer_path = tokenizer
        self.train_sources = train or []
        self.evaluation_sources = {"validation": validation or {}, "test": test or {}, "predict": predict or {}}
        self.sampling = sampling
        self.pixels = pixels
        self.order = order
        self.loading = loading
        self.num_steps = num_steps
        self._tokenizer: Any = None
        self._batches: GlobalBatches | None = None
        self._facts: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        self._start_samples = 0
        self._start_batches: int | None = None
        self._read_batches = ReadBatches()

    def names(self, stage: str) -> list[str]:
        """Names of the sets of ``validation``, ``test`` or ``predict``, in the order of their data loaders."""
        return list(self.evaluation_sources[stage])

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first needed.

        Raises:
            ValueError: None is set.
        """
        if self._tokenizer is None:
            if self.tokenizer_path is None:
                raise ValueError("data.tokenizer is not set: give the folder or hub name of the language model")
            self._tokenizer = load_tokenizer(self.tokenizer_path)
        return self._tokenizer

    def prepare_data(self) -> None:
        """Index the shards once a node, so that the other ranks find the stored indexes."""
        named = [shards for sources in self.evaluation_sources.values() for shards in sources.values()]
        for patterns in [*(source.shards for source in self.train_sources), *named]:
            open_shards(patterns, self.loading.cache)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training stream, from the current position of training.

        Raises:
            ValueError: There is no training source, or the data do not allow this order.
        """
        refuse_other_sampler(self.trainer)
        if not self.train_sources:
            raise ValueError("there is no training data; set data.train to a list of sources")
        readers = [open_shards(source.shards, self.loading.cache) for source in self.train_sources]
        weights = [source.weight for source in self.train_sources]
        reader = ShardReader([shard for one in readers for shard in one.shards])
        rank, world_size = self._rank()
        # With one process and a fixed batch size, lengths of texts are not needed.
        samples = self._lengths(reader, readers if self.loading.budget is not None or world_size > 1 else [])
        if self.loading.budget is not None:
            samples.check_lengths(reader)
        self.order.warn_of_short_run(self.num_steps)
        known_frames = stated_frames_of(reader) if self.order.curriculum else None
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        num_batches = self.num_steps * accumulated if self.num_steps > 0 else None
        self._batches = global_batches(
            source_samples(readers, weights),
            samples,
            self.order,
            cost=self.loading.cost,
            batch_size=self.loading.batch_size,
            budget=self.loading.budget,
            batches_a_step=accumulated,
            stated_frames=known_frames,
        )
        shards = [shard.fingerprint for shard in reader.shards]
        self._facts = order_facts(shards, weights, self.order, self._batches, samples, known_frames)
        batches = TrainingBatches(self._batches, num_batches, rank, world_size, self._resume_position)
        return batch_loader(ResumableLoader, self.dataset(reader, train=True), batches, self.loading.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a validation set, in the order of ``names``."""
        return self._evaluation_loaders("validation")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a test set, in the order of ``names``."""
        return self._evaluation_loaders("test")

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a prediction set, in the order of ``names``."""
        # Lightning cannot know that this sampler reads every sample.
        warnings.filterwarnings("ignore", message=".*custom batch sampler `EvaluationBatches` for prediction.*")
        return self._evaluation_loaders("predict")

    def dataset(
        self, reader: ShardReader, *, train: bool, failures: FailurePolicy | None = None
    ) -> ConversationDataset:
        """Make the dataset of these shards with this module's settings; ``failures`` None = as in training."""
        return ConversationDataset(
            reader,
            self.tokenizer,
            MediaReader(self.sampling, PixelTransform(self.pixels, train=train), self.loading.decoding),
            chat=self.loading.chat_settings,
            max_length=self.loading.max_length,
            seed=self.order.seed,
            failures=failures or self.loading.failures,
        )

    def evaluation_batches(self, reader: ShardReader, numbers: Sequence[int] | None = None) -> EvaluationBatches:
        """Make the batches of an evaluation of these samples, with this module's settings.

        Args:
            reader: The samples.
            numbers: Which of them, in this order; None = all.

        Raises:
            ValueError: A budget is set and a sample does not state its length, or there are fewer samples than ranks.
        """
        loading = self.loading
        fixed = loading.eval_batch_size or loading.batch_size
        rank, world_size = self._rank()
        samples = self._lengths(reader, [] if fixed else [reader])
        if not fixed:
            samples.check_lengths(reader)
        return EvaluationBatches(
            samples,
            numbers,
            batch_size=fixed,
            budget=None if fixed else loading.budget,
            frame_tokens=loading.cost.frame_tokens,
            rank=rank,
            world_size=world_size,
        )

    def start_sample(self, stage: str) -> StartSample:
        """Read a few samples of every source that ``stage`` (fit, validate, test or predict) reads."""
        name = "validation" if stage in ("fit", "validate") else stage
        sources = [(source.shards, False) for source in self.train_sources if stage == "fit"]
        sources += [(shards, True) for shards in self.evaluation_sources[name].values()]
        return StartReader(self.tokenizer, self.pixels.size, self.loading, self.order.seed).read(sources)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count what a stage of the run reads, without the batches of the sanity check."""
        trainer: Any = self.trainer  # which calls this
        if not trainer.sanity_checking:
            self._read_batches.add(trainer.state.stage.value, batch)
        return batch

    def teardown(self, stage: str) -> None:
        """Fail if all samples, or too many in an evaluation, were left out; see ``ReadBatches.finish``."""
        counted, self._read_batches = self._read_batches, ReadBatches()
        counted.finish(self.trainer, self.loading.failures)

    def state_dict(self) -> dict[str, Any]:
        """Number of draws trained on, and everything that fixes their order."""
        if self._facts is None:
            return self._restored or {}
        return {"samples_consumed": self.samples_consumed, "fingerprint": self._facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's position. It is checked when training starts: evaluation needs no training data."""
        self._restored = dict(state_dict)
        self._start_samples = int(state_dict.get("samples_consumed", 0))
        self._start_batches = None

    @property
    def samples_consumed(self) -> int:
        """Number of draws trained on so far, over all ranks and restarts."""
        if self._start_batches is None or self._batches is None:
            return self._start_samples
        trained = self._trained_batches(complete_steps=True) - self._start_batches
        return self._batches.consumed_after(self._start_samples, max(0, trained))

    @property
    def batches_per_pass(self) -> int:
        """Global batches that a pass over the training data fills; 0 before the training loader is made."""
        return 0 if self._batches is None else self._batches.batches_per_pass

    def _resume_position(self) -> int:
        """Position at which the training loader starts; called at its first batch, after Lightning has restored."""
        if self._restored and self._facts is not None:
            check_facts(self._restored["fingerprint"], self._facts)
        if self._start_batches is None:
            self._start_batches = self._trained_batches()
        return self.samples_consumed

    def _trained_batches(self, *, complete_steps: bool = False) -> int:
        """Batches whose training step has ended, over all restarts, as Lightning's loop counts them.

        With ``complete_steps``, batches of an unfinished optimizer step do not count: no checkpoint has their gradient.
        """
        if self.trainer is None:
            return 0
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress  # Lightning types it too narrowly
        of_epoch = batches.current.processed
        all_count = not complete_steps or of_epoch >= self.trainer.num_training_batches
        return int(batches.total.processed - (0 if all_count else of_epoch % self.trainer.accumulate_grad_batches))

    def _evaluation_loaders(self, sources: str) -> list[DataLoader[Batch]]:
        refuse_other_sampler(self.trainer)
        loaders = []
        failures = self.loading.failures
        if self.trainer is not None:
            failures = failures.for_evaluation(skipped_file(self.trainer, sources))
        for patterns in self.evaluation_sources[sources].values():
            reader = open_shards(patterns, self.loading.cache)
            dataset = self.dataset(reader, train=False, failures=failures)
            batches = self.evaluation_batches(reader)
            loaders.append(batch_loader(LateLoader, dataset, batches, self.loading.num_workers))
        return loaders

    def _lengths(self, reader: ShardReader, measured: Sequence[ShardReader]) -> SampleTable:
        """Lengths of the samples. Lengths of texts are estimated from ``measured`` sources, or 0 without any."""
        loading = self.loading
        text = None
        if measured:
            chat, seed = loading.chat_settings, self.order.seed
            text = measure_text_tokens(measured, self.tokenizer, chat=chat, max_length=loading.max_length, seed=seed)
        tiles = self.pixels.tiles
        pictures = None if tiles is None else TiledPictures(tiles, self.pixels.side)
        return tabulate(reader, self.sampling, text, loading.cost.visual_tokens or 0, pictures)

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
