"""A model that notes what it was given, a quiet trainer and small samples."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from datamodules.batch import Batch
from tests.fixtures_data import RawSample, make_clip, make_image, make_record

Step = tuple[str, ...]


class Recorder(LightningModule):
    """Notes what it was given and learns one number from it."""

    def __init__(self, *, reads_length_early: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.reads_length_early = reads_length_early
        self.steps: list[Step] = []
        self.asked: list[list[tuple[str, str]]] = []
        self.losses: list[float] = []
        self.evaluated: dict[int, list[str]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.steps.append(tuple(question.key for question in batch.questions))
        self.asked.append([(question.key, question.id) for question in batch.questions])
        seen = batch.frames if batch.frames.numel() else batch.input_ids  # of text there are no frames
        loss = (self.weight * seen.float().mean() / 255 - 0.5) ** 2
        self.losses.append(float(loss.detach()))
        return loss.sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.setdefault(dataloader_idx, []).extend(question.key for question in batch.questions)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        return [question.key for question in batch.questions]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.reads_length_early:  # what Lightning's issue 20550 is about
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


def samples(prefix: str, count: int, num_frames: int = 1) -> list[RawSample]:
    clip = make_clip(num_frames, width=16, height=16)
    record = make_record(meta={"num_frames": num_frames})
    return [(f"{prefix}{index:02d}", record, clip, "mp4") for index in range(count)]


def mixed_samples(prefix: str, count: int) -> list[RawSample]:
    """Videos of 1 to 5 frames, images and text, with one to three questions each."""
    clips = [make_clip(num_frames, width=16, height=16) for num_frames in range(1, 6)]
    image = make_image(width=16, height=16)
    made: list[RawSample] = []
    for number in range(count):
        questions = [("which colour ?", "red"), ("how many ? " * (number % 4 + 1), "one"), ("what shape ?", "star")]
        asked, length = questions[: number % 3 + 1], number % 5
        record = make_record(asked, media=number % 7 != 0, meta={"num_frames": length + 1} if number % 7 > 2 else {})
        media = [(None, None), (image, "png"), (image, "png"), *[(clips[length], "mp4")] * 4][number % 7]
        made.append((f"{prefix}{number:02d}", record, *media))
    return made


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks), **options,
    )  # fmt: skip


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
