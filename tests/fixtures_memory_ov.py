"""Parts, data and sizes for runs of the Memory-Augmented VLM in tests, and checks of their steps.

Plain functions; no fixture, no state.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from components.checkpoints.run_checkpoint import RunCheckpoint
from components.checkpoints.weight_files import WeightFiles
from tests.components.tiny_onevision import IMAGE_SIZE, make_onevision, write_own_parts
from tests.config_models import CONFIGS
from tests.fixtures_data import RawSample, make_clip, make_image, make_record, write_shard

SIZES = ("0.5b", "7b")
FRAME_SIZE = "frame_size.yaml"
SHARDS = (
    "data/llava_video_178k_short/short-000000.tar",
    "data/llava_video_178k_long/long-000000.tar",
    "data/memory_ov/validation-000000.tar",
)
"""Where the configs look for data."""

RATES = {"memory": 1e-5, "frames": 1e-5, "newline": 1e-6, "language_model": 1e-6}
"""Learning rate of every part in the second stage."""


def model_files(size: str, *overlays: str) -> list[str]:
    """Arguments that name the config of a model of this size, overlays of it, and the tiny encoder's frame size.

    The working directory has what ``write_parts`` writes.
    """
    files = [str(CONFIGS / "model" / name) for name in (f"memory_ov_{size}.yaml", *overlays)]
    return [part for file in (*files, FRAME_SIZE) for part in ("-c", file)]


def stage_file(stage: str) -> list[str]:
    """Arguments that name the config of a stage."""
    return ["-c", str(CONFIGS / "stages" / stage)]


def write_parts(folder: Path) -> None:
    """Write tiny random parts of the real classes where the configs look for those of each size."""
    for seed, size in enumerate(SIZES):
        model = make_onevision(seed=seed, tied=size == "0.5b")
        target = folder / f"weights/llava_onevision_{size}"
        target.mkdir(parents=True)
        write_own_parts(model, target)
    layout = {"picture_layout": {"init_args": {"tile_size": IMAGE_SIZE}}}
    (folder / FRAME_SIZE).write_text(yaml.safe_dump({"model": layout}), encoding="utf-8")


def make_video(key: str, num_seconds: int, *questions: tuple[str, str]) -> RawSample:
    """A video with one frame a second."""
    meta = {"num_frames": num_seconds, "duration_ms": num_seconds * 1000}
    return key, make_record(questions, meta=meta), make_clip(num_seconds, fps=1), "mp4"


def every_kind_of_sample(*num_seconds: int) -> list[RawSample]:
    """Videos of these lengths, a picture that is cut into tiles, plain text."""
    asked = [("which colour ?", "red"), ("how many ?", "3")]
    videos = [make_video(f"video{seconds}", seconds, *asked) for seconds in num_seconds]
    image = ("image", make_record([("what is shown ?", "a chat")]), make_image(90, width=80), "png")
    text = make_record([("say hello", "hello")], media=False)
    return [*videos, image, ("words", text, None, None), ("more", text, None, None)]


def write_data(folder: Path, samples: list[RawSample]) -> None:
    """Write the same samples wherever the configs look for data."""
    for name in SHARDS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_shard(folder / name, samples)


def write_small_sizes(folder: Path) -> list[str]:
    """Write an overlay with which a segment has 4 frames of 4 cells; gives the arguments that name it."""
    model: Any = yaml.safe_load((CONFIGS / "model/memory_ov_0.5b.yaml").read_text(encoding="utf-8"))["model"]
    sizes = {
        "patch_pooling": model["patch_pooling"],
        "segmenter": model["segmenter"],
        "readers": model["readers"],
    }
    sizes["patch_pooling"]["init_args"]["grid"] = 2
    sizes["segmenter"]["init_args"]["frames"] = 4
    sizes["readers"]["memory"]["reader"]["init_args"] |= {"num_cells": 4, "cache_limit": 2}
    sizes["readers"]["frames"]["reader"]["init_args"] |= {"num_frames": 4}
    file = folder / "small_sizes.yaml"
    file.write_text(yaml.safe_dump({"model": sizes}, sort_keys=False), encoding="utf-8")
    return ["-c", str(file)]


def weights_in(checkpoint: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint by name."""
    stored = RunCheckpoint(checkpoint)
    return {name: stored.weight(name) for name in stored.parameters}


def weights_of_files(folder: Path, size: str) -> dict[str, Tensor]:
    """What newline and language model begin with, by their names in a checkpoint."""
    parts = folder / f"weights/llava_onevision_{size}"
    newline, language_model = WeightFiles(parts / "newline.safetensors"), WeightFiles(parts / "language_model")
    named = {f"model.newline.{name}": tensor for name, tensor in newline.items()}
    return named | {f"model.language_model.model.{name}": tensor for name, tensor in language_model.items()}


def assert_moved_by_rates(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Check the first step of AdamW: it moves a weight by its rate, if the gradient is far above epsilon."""
    assert parts_in(after) == set(RATES)
    assert after.keys() <= before.keys()
    for part, rate in RATES.items():
        own = [name for name in after if name.startswith(f"model.{part}.")]
        moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in own)
        assert moved == pytest.approx(rate, rel=0.2), part


def parts_in(weights: dict[str, Tensor]) -> set[str]:
    """Parts of the model that these weights are of."""
    return {name.split(".")[1] for name in weights}
