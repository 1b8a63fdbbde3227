"""The LightningDataModule: sources in, batches out, and one integer that resumes training exactly.

Training is resumed through ``state_dict``: it holds how many samples were trained on. Batches that were only fetched
do not count, so prefetching loses nothing. Everything that the order follows from is in the fingerprint beside it.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batch import Batch, collate
from datamodules.conversations import load_tokenizer
from datamodules.dataset import ConversationDataset
from datamodules.decoding import Decoding
from datamodules.loading import LateLoader, Loading, ResumableLoader, Source
from datamodules.media_reader import MediaReader
from datamodules.order import EvaluationBatches, SampleStream, SourceSamples, TrainingBatches, TrainingOrder
from datamodules.shard_index import find_shards, load_index
from datamodules.shard_reader import ShardReader
from datamodules.transforms import PixelOptions, PixelTransform
from datamodules.video import FrameSampling


class InstructionDataModule(LightningDataModule):
    """Video, image and text conversations from shards.

    Every rank takes its own part of each global batch, so the trainer must not add a sampler of its own:
    ``configs/base.yaml`` sets ``trainer.use_distributed_sampler: false``.

    Args:
        tokenizer: Folder or hub name of a tokenizer with a chat template.
        train: Training sources, mixed by weight.
        validation: Name -> shards; one data loader each, in this order.
        test: The same for ``test``.
        predict: The same for ``predict``.
        sampling: How many frames a video gives.
        pixels: Frame size and augmentation.
        order: What fixes the order of training samples.
        loading: Batch size, workers, what happens to wrong samples.
        num_steps: Optimizer steps of the whole training run, which then is one epoch; -1 = an epoch is one pass. It
            moves the curriculum's stages, and changes no order without one.
    """

    def __init__(
        self,
        tokenizer: str,
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
        self._fingerprint: str | None = None
        self._restored: dict[str, Any] | None = None
        self._start_samples = 0
        self._start_batches: int | None = None

    @property
    def validation_names(self) -> list[str]:
        """Names of the validation sets, in the order of their data loaders."""
        return list(self.evaluation_sources["validation"])

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of their data loaders."""
        return list(self.evaluation_sources["test"])

    @property
    def predict_names(self) -> list[str]:
        """Names of the prediction sets, in the order of their data loaders."""
        return list(self.evaluation_sources["predict"])

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first needed."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer_path)
        return self._tokenizer

    def prepare_data(self) -> None:
        """Index the shards once a node, so that the other ranks find the indexes beside them."""
        named = [shards for sources in self.evaluation_sources.values() for shards in sources.values()]
        for patterns in [*(source.shards for source in self.train_sources), *named]:
            _index(patterns)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training stream, from where training stands.

        Raises:
            ValueError: There is no training source, or the order cannot be followed.
        """
        self._refuse_other_sampler()
        if not self.train_sources:
            raise ValueError("there is no training data; set data.train to a list of sources")
        readers = [_index(source.shards) for source in self.train_sources]
        reader = ShardReader([shard for one in readers for shard in one.shards])
        dataset = self.dataset(reader, train=True)
        batch_size = self.loading.batch_size
        steps = self.num_steps if self.num_steps > 0 else None
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        stream = SampleStream(
            _source_samples(readers, self.train_sources),
            _num_frames(reader),
            self.order,
            batch_size,
            num_batches=None if steps is None else steps * accumulated,
        )
        shards = [shard.fingerprint for shard in reader.shards]
        weights = [source.weight for source in self.train_sources]
        facts = [shards, weights, asdict(self.order), hashlib.sha256(stream.curriculum.tobytes()).hexdigest()]
        self._fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        batches = TrainingBatches(stream, batch_size, *self._rank(), self._resume_position)
        return self._loader(ResumableLoader, dataset, batches)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a validation set, in the order of ``validation_names``."""
        return self._evaluation_loaders("validation")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a test set, in the order of ``test_names``."""
        return self._evaluation_loaders("test")

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """One data loader a prediction set, in the order of ``predict_names``."""
        # Lightning cannot know that this sampler leaves nothing out.
        warnings.filterwarnings("ignore", message=".*custom batch sampler `EvaluationBatches` for prediction.*")
        return self._evaluation_loaders("predict")

    def dataset(self, reader: ShardReader, *, train: bool) -> ConversationDataset:
        """Make the dataset of these shards with this module's settings."""
        return ConversationDataset(
            reader,
            self.tokenizer,
            MediaReader(self.sampling, PixelTransform(self.pixels, train=train), Decoding(self.loading.video_backend)),
            max_length=self.loading.max_length,
            seed=self.order.seed,
            failures=self.loading.failures,
        )

    def state_dict(self) -> dict[str, Any]:
        """How many samples were trained on, and what their order follows from."""
        if self._fingerprint is None:
            return self._restored or {}
        return {"samples_consumed": self.samples_consumed, "fingerprint": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where a checkpoint stands. It is checked when training goes on: judging needs no training data."""
        self._restored = dict(state_dict)
        self._start_samples = int(state_dict.get("samples_consumed", 0))
        self._start_batches = None

    @property
    def samples_consumed(self) -> int:
        """Samples that the run has trained on so far, over all ranks and restarts."""
        if self._start_batches is None:
            return self._start_samples
        return self._start_samples + (self._trained_batches() - self._start_batches) * self.loading.batch_size

    def _resume_position(self) -> int:
        """Where an iteration of the training loader starts; asked at its first batch, after Lightning has restored."""
        if self._restored and self._restored["fingerprint"] != self._fingerprint:
            raise ValueError(
                "the checkpoint was trained on other shards, or with another seed, weight, shuffle_block or curriculum "
                "(whose stages move with the run's length): going on would repeat or lose samples. Restore the data "
                "settings, or start a new run from the checkpoint's weights"
            )
        if self._start_batches is None:
            self._start_batches = self._trained_batches()
        return self.samples_consumed

    def _trained_batches(self) -> int:
        """Batches whose training step has ended, over all restarts, as Lightning's loop counts them."""
        if self.trainer is None:
            return 0
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total  # Lightning types it too narrowly
        return int(batches.processed)

    def _evaluation_loaders(self, kind: str) -> list[DataLoader[Batch]]:
        self._refuse_other_sampler()
        loaders = []
        for patterns in self.evaluation_sources[kind].values():
            dataset = self.dataset(_index(patterns), train=False)
            batch_size = self.loading.eval_batch_size or self.loading.batch_size
            loaders.append(
                self._loader(LateLoader, dataset, EvaluationBatches(len(dataset), batch_size, *self._rank()))
            )
        return loaders

    def _loader(
        self, kind: type[LateLoader], dataset: ConversationDataset, batches: TrainingBatches | EvaluationBatches
    ) -> DataLoader[Batch]:
        return kind(
            dataset,  # type: ignore[arg-type]  # it holds samples; collate makes them batches
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.loading.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _refuse_other_sampler(self) -> None:
        if self.trainer is None or self.trainer.world_size == 1:
            return
        if self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "set trainer.use_distributed_sampler: false (configs/base.yaml does): this datamodule splits every "
                "batch over the ranks itself, and a second split would lose samples and break resuming"
            )


def _index(patterns: str | Sequence[str]) -> ShardReader:
    return ShardReader([load_index(path) for path in find_shards(patterns)])


def _source_samples(readers: Sequence[ShardReader], sources: Sequence[Source]) -> list[SourceSamples]:
    numbered = []
    first = 0
    for reader, source in zip(readers, sources, strict=True):
        shards = []
        for shard in reader.shards:
            shards.append(np.arange(first, first + len(shard.entries), dtype=np.int64))
            first += len(shard.entries)
        numbered.append(SourceSamples(tuple(shards), source.weight))
    return numbered


def _num_frames(reader: ShardReader) -> np.ndarray:
    known = (reader.entry(index).num_frames for index in range(len(reader)))
    return np.array([-1 if count is None else count for count in known], dtype=np.int64)
