"""Small training runs for tests: trainers, loaders, a logger that remembers. Plain functions; no fixture, no state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from lightning_modules.strategies.replicated import SingleDevice
from tests.fixtures_models import IMAGE_SIZE, PartFolders


def make_trainer(folder: Path, max_steps: int = 3, **changes: Any) -> Trainer:
    """A quiet trainer on the CPU that writes nothing unless told to."""
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": max_steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "strategy": SingleDevice(),
    }
    return Trainer(**(settings | changes))


def make_loader(batches: Sequence[Batch]) -> DataLoader[Batch]:
    """A loader of ready batches, in order."""
    return DataLoader(list(batches), batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(batch: Batch) -> Batch:
    return batch


class RecordingLogger(Logger):
    """Remembers what was logged: (step, values)."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def values(self, name: str) -> list[float]:
        """Everything that was logged under a name."""
        return [values[name] for _, values in self.logged if name in values]


def write_run_config(folder: Path, folders: PartFolders, shards: Mapping[str, str], **trainer: Any) -> Path:
    """Write a config for ``train.py``: the tiny parts, 6 frames a video, three samples a batch.

    Args:
        folder: Where to; the run's log folders are made there too.
        folders: The tiny parts.
        shards: Shards of ``train``, ``validation`` and ``predict``.
        **trainer: More settings of the trainer.

    Returns:
        The file.
    """
    rates = {"bridge": 0.01, "language_model": 0.01}
    config = {
        "model": {
            "encoder": {
                "class_path": "components.encoders.hugging_face.HuggingFaceVisionEncoder",
                "init_args": {"path": folders.encoder, "layer": -1},
            },
            "segmenter": {"class_path": "components.segmenters.uniform.Uniform", "init_args": {"num_segments": 3}},
            "bridge": {
                "class_path": "components.bridges.recurrent.RecurrentMemoryBridge",
                "init_args": {"width": 16, "num_memory": 3, "num_heads": 2},
            },
            "language_model": {
                "class_path": "components.language.causal.HuggingFaceCausalLM",
                "init_args": {"path": folders.language_model},
            },
            "optimization": {"learning_rates": rates},
            "max_new_tokens": 3,
        },
        "data": {
            "tokenizer": folders.language_model,
            "train": [{"shards": shards["train"]}],
            "validation": {"1x": shards["validation"]},
            "predict": {"1x": shards["predict"]},
            "sampling": {"num_frames": 6},
            "pixels": {"size": IMAGE_SIZE},
            "loading": {"batch_size": 3, "num_workers": 0},
        },
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(folder), "name": "run"},
            },
            **trainer,
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
