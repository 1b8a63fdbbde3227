"""The models that the files under ``configs/`` describe, with tiny parts, and batches that they read.

Before a model is built, ``tests.fixtures_models.make_quickstart_parts`` must have written the parts into the working
directory.
"""

from pathlib import Path

import torch
from torch import Tensor

from components.model import VideoLanguageModel
from datamodules.batch import Batch, collate
from lightning_modules.console.config_files import read_config
from lightning_modules.trained_model import build_module
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import PartFolders, make_sample

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE = ["base.yaml", "quickstart_pixels.yaml"]
FEATURES = [*BASE, "quickstart.yaml"]
BY_QUESTION = [*BASE, "ablation/best_frames.yaml"]
CHAINS = {
    "base.yaml": BASE,
    "quickstart_pixels.yaml": BASE,
    "quickstart.yaml": FEATURES,
    "quickstart_smollm2.yaml": [*FEATURES, "quickstart_smollm2.yaml"],
    "haystack_in_training.yaml": [*BASE, "haystack_in_training.yaml"],
    "model/tiny.yaml": [*BASE, "model/tiny.yaml"],
    "model/tiny_memory_ov.yaml": [*BASE, "model/tiny_memory_ov.yaml"],
    "recipes/one_24gb_card.yaml": [*BASE, "recipes/one_24gb_card.yaml"],
    "ablation/best_frames.yaml": BY_QUESTION,
    **{
        f"ablation/{name}.yaml": [*BY_QUESTION, f"ablation/{name}.yaml"]
        for name in (
            *("adaptive_frames", "frames_by_share", "determinantal_frames"),
            *("sequential_determinantal_frames", "key_clips"),
        )
    },
    "ablation/static_merge.yaml": [*BASE, "ablation/static_merge.yaml"],
    "ablation/salient_tokens.yaml": [*BASE, "ablation/salient_tokens.yaml"],
    "ablation/anchor_merge.yaml": [*BASE, "ablation/anchor_merge.yaml"],
    "ablation/grid_memory_budget.yaml": [*FEATURES, "ablation/grid_memory.yaml", "ablation/grid_memory_budget.yaml"],
    "ablation/frame_dropout.yaml": [*FEATURES, "ablation/memory_and_frames.yaml", "ablation/frame_dropout.yaml"],
}


def chain_of(name: str) -> list[str]:
    """The files that a config is used with, itself last."""
    return CHAINS.get(name, [*FEATURES, name])


def build_module_of(name: str) -> VideoLanguageModule:
    """The module of a config with its parts built, always with the same random weights."""
    settings = read_config([CONFIGS / file for file in chain_of(name)], {"model": VideoLanguageModule})
    module = build_module(settings["model"])
    torch.manual_seed(0)
    module.configure_model()
    return module


def make_inputs_of(model: VideoLanguageModel) -> Batch:
    """Two conversations about one video, plain text and an image; frames as the model's encoder reads them."""
    example = model.encoder.dummy_frames("cpu")
    generator = torch.Generator().manual_seed(1)

    def frames(count: int) -> Tensor:
        shape = (count, *example.shape[1:])
        if example.is_floating_point():
            return torch.randn(shape, generator=generator)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    folders = PartFolders("", "runs/quickstart/language_model")
    film = [[("which colour ?", "red")], [("how many ?", "two"), ("and then ?", "blue square")]]
    return collate(
        [
            make_sample(folders, "film", frames(9), film),
            make_sample(folders, "text", None, [[("say yes", "yes")]]),
            make_sample(folders, "image", frames(1), [[("which colour ?", "blue")]]),
        ]
    )
