"""The training run that is killed: tiny parts, but with the real command line and real videos."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from transformers import AutoConfig

from apps.quickstart.haystack_videos import encode
from apps.quickstart.tokenizer import build_language_model_folder
from benchmarks.tiny_parts import write_encoder
from datamodules.shards.schema import VIDEO_MARK
from datamodules.shards.shard_writer import ShardWriter

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220), "yellow": (230, 220, 40)}
BATCH_SIZE = 4
STEPS_A_CHECKPOINT = 2
_IMAGE_SIZE = 28
_VIDEOS = 42  # no multiple of the batch, so that passes begin within a batch
_VIDEOS_A_SHARD = 10


class Run(NamedTuple):
    """A training run with all its attempts."""

    parts: Path  # what ``build_workload`` made
    folder: Path
    steps: int

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"


def build_workload(folder: Path, *, dropout: float) -> Path:
    """Make shards of mp4s, an encoder and a language model.

    Every answer is one word, so that all ranks have equally many answer tokens: the mean of their losses is then the
    loss of the batch, for any number of ranks.

    Args:
        folder: Receives everything.
        dropout: Dropout of the language model's attention. Masks are random in every step, and equal in a resumed run
            only if it has the same random state.

    Returns:
        The folder.
    """
    shards = _write_shards(folder / "shards" / "train")
    language_model = build_language_model_folder(shards, folder / "language_model", num_layers=2, width=32, num_heads=2)
    config = AutoConfig.from_pretrained(language_model)
    config.attention_dropout = dropout
    config.save_pretrained(language_model)
    write_encoder(folder / "encoder", _IMAGE_SIZE)
    return folder


def write_config(run: Run, records: Path, *, processes: int) -> Path:
    """Write the config of one attempt, which ``train.py`` reads after ``configs/base.yaml``.

    Args:
        run: What is trained.
        records: New folder for what the attempt trains on, and its config.
        processes: Training processes of this attempt.

    Returns:
        The file.
    """
    config = {
        "num_threads": 1,
        "model": _model(run.parts),
        "data": {
            "tokenizer": str(run.parts / "language_model"),
            "train": [{"shards": str(run.parts / "shards" / "train-*.tar")}],
            "sampling": {"num_frames": 6},
            "pixels": {"size": _IMAGE_SIZE},
            "loading": {"batch_size": BATCH_SIZE, "num_workers": 1},
        },
        "checkpoint": {"folder": str(run.checkpoints), "every_n_steps": STEPS_A_CHECKPOINT},
        "trainer": {
            "max_steps": run.steps,
            "accelerator": "cpu",
            "devices": processes,
            "logger": False,
            "default_root_dir": str(records),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "benchmarks.resume.recording.StepRecorder", "init_args": {"folder": str(records)}}
            ],
        },
    }
    records.mkdir(parents=True)
    path = records / "attempt.yaml"
    OmegaConf.save(OmegaConf.create(config), path)
    return path


def _model(folder: Path) -> dict[str, Any]:
    return {
        "encoder": {
            "class_path": "components.encoders.hugging_face.HuggingFaceVisionEncoder",
            "init_args": {"path": str(folder / "encoder"), "layer": -1},
        },
        "segmenter": {"class_path": "components.segmenters.uniform.Uniform", "init_args": {"num_segments": 3}},
        "bridge": {
            "class_path": "components.bridges.recurrent.RecurrentMemoryBridge",
            # The gate of the selective memory is random and differs between ranks: losses would not be comparable.
            "init_args": {"width": 16, "num_memory": 3, "num_heads": 2, "recurrence": "replacing"},
        },
        "language_model": {
            "class_path": "components.language.causal.HuggingFaceCausalLM",
            "init_args": {"path": str(folder / "language_model"), "weights": "random"},
        },
        "optimization": {"learning_rates": {"bridge": 1e-3, "language_model": 1e-3}},
    }


def _write_shards(prefix: Path) -> list[Path]:
    random = np.random.default_rng(0)
    with ShardWriter(prefix, max_samples=_VIDEOS_A_SHARD) as writer:
        for number in range(_VIDEOS):
            name, colour = list(COLOURS.items())[number % len(COLOURS)]
            frames = random.integers(0, 256, (int(random.integers(4, 12)), 32, 32, 3), dtype=np.uint8)
            frames[:, 8:24, 8:24] = colour
            turns = [
                {"role": "user", "content": f"{VIDEO_MARK}\nwhich colour is the square ?"},
                {"role": "assistant", "content": name},
            ]
            record = {"source": "squares", "conversations": [{"id": "colour", "turns": turns}]}
            writer.write(f"square{number:02d}", record, encode(frames), "mp4")
    return writer.paths
