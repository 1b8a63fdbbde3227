"""Writes the samples of a skipped step to disk for inspection."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components.checkpoints.file_modes import follow_umask
from lightning_modules.interfaces import EvaluatedBatch


def write_bad_samples(folder: str, name: str, batch: EvaluatedBatch, loss: float, dataset: Any) -> None:
    """Write a batch as ``NAME.safetensors``, its tensors by field, and ``NAME.json``, what they belong to.

    Args:
        folder: Where to.
        name: Name of the files without ending.
        batch: A named tuple of tensors, and the questions.
        loss: Its loss; written as text if it is not finite, because JSON has no NaN.
        dataset: The training data. If it has ``locate``, as ``datamodules.dataset.ConversationDataset`` has, the shards
            of the samples are written too; else their keys only.
    """
    fields: dict[str, Any] = batch._asdict()  # type: ignore[attr-defined]  # the protocol leaves out that it is one
    tensors = {key: value.detach().cpu().contiguous() for key, value in fields.items() if torch.is_tensor(value)}
    questions = [question._asdict() for question in batch.questions]
    keys = {question["key"] for question in questions}
    found = dataset.locate(keys) if hasattr(dataset, "locate") else {}
    places = {key: [{"shard": shard, "members": list(members)} for shard, members in at] for key, at in found.items()}
    about = {"loss": loss if math.isfinite(loss) else str(loss), "questions": questions, "places": places}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / f"{name}.safetensors")
    follow_umask(target / f"{name}.safetensors")
    (target / f"{name}.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
