"""LanguageBind's recorded weights, written as the checkpoint folders that are published."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.encoders.languagebind import LanguageBindEncoder
from components.interfaces import FrameFeatures

GOLDENS = Path(__file__).parents[2] / "goldens"
RECORDED: dict[str, Any] = json.loads((GOLDENS / "languagebind.json").read_text())
TENSORS = load_file(GOLDENS / "languagebind.safetensors")
WEIGHTS = load_file(GOLDENS / "languagebind_video_weights.safetensors")
_ADAPTER_PREFIX = "image_lora.weights."
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Weights = dict[str, Tensor]


def recorded_state(case: str, layer: int) -> Tensor:
    """The first of every three tokens of a recorded hidden state, ``[F, 6, D]``."""
    state = TENSORS[f"{case}.hidden_states.{layer}_every3rd"]
    return state.flatten(0, -3)


def image_weights() -> Weights:
    return {name: tensor for name, tensor in WEIGHTS.items() if "temporal" not in name}


def lora_weights(with_base_layer: bool) -> Weights:
    """The image weights as peft saves them: in the form with ``base_layer``, or in the older one without."""
    adapted = set(RECORDED["image_lora"]["target_modules"])
    weights = {name.removeprefix(_ADAPTER_PREFIX): t for name, t in TENSORS.items() if name.startswith(_ADAPTER_PREFIX)}
    for name, tensor in image_weights().items():
        name = name.replace("encoder.", "encoder.base_model.model.")
        *path, module, kind = name.split(".")
        middle = [module, "base_layer"] if module in adapted and with_base_layer else [module]
        weights[".".join([*path, *middle, kind])] = tensor
    return weights


def write_folder(folder: Path, weights: Weights, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(RECORDED["vision_config"] | settings))
    save_file(weights, folder / "model.safetensors")
    return folder


def random_frames(count: int, size: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def normalised(frames: Tensor) -> Tensor:
    return (frames.float() / 255 - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def assert_close(features: FrameFeatures, expected: FrameFeatures) -> None:
    torch.testing.assert_close(features.cls, expected.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.patches, expected.patches, atol=1e-5, rtol=1e-5)


class Folders(NamedTuple):
    """Checkpoint folders of the two transformers."""

    video: Path
    image: Path


def write_folders(parent: Path) -> Folders:
    return Folders(write_folder(parent / "video", WEIGHTS), write_folder(parent / "image", image_weights()))


def build(folders: Folders, **options: Any) -> LanguageBindEncoder:
    return LanguageBindEncoder(str(folders.video), str(folders.image), **options)
