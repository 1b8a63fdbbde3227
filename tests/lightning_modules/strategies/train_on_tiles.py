r"""Trains a model that shows pictures in tiles, in a group of processes.

    torchrun --nproc_per_node 2 -m tests.process_end \
        tests.lightning_modules.strategies.train_on_tiles ENCODER LLM FOLDER STEPS NAME...

A name is that of a strategy. What each rank reads in a step depends on step and rank alone, so one process can read
what several ranks read.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import faulthandler
import itertools
import json
import os
import random
import sys
import warnings
from functools import partial
from pathlib import Path

import torch

from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.newline import Newline
from components.pictures.tile_grid import PictureSize, best_grid
from components.pictures.tile_layout import TileLayout
from components.projectors.mlp import MlpProjector
from datamodules.batch import Batch, Sample, collate
from lightning_modules.optimization import Optimization
from tests.fixtures_models import IMAGE_SIZE, RATES, PartFolders, make_frames, make_sample, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_on_mixed_batches import HangWatch
from tests.lightning_modules.strategies.train_with_strategies import make_strategy

KINDS = ("text", "video", "tiles")
PAIRS = tuple(itertools.product(KINDS, repeat=2))
"""What the two ranks read in a step."""

SIZES = [(28, 28), (20, 90), (70, 60), (50, 20)]
PER_SIDE = 2


def make_content(folders: PartFolders, step: int, rank: int) -> Sample:
    """What a rank reads in a step; nine steps hold each pair of kinds once."""
    draw = random.Random(f"{step}/{rank}")
    kind = PAIRS[step % len(PAIRS)][rank]
    question = [[(draw.choice(["which colour ?", "how many ?"]), draw.choice(["red", "blue square and then green"]))]]
    seed = draw.randrange(1000)
    if kind == "text":
        return make_sample(folders, kind, None, question)
    if kind == "video":
        return make_sample(folders, kind, make_frames(draw.choice([1, 2, 5]), seed=seed), question)
    size = draw.choice(SIZES)
    grid = best_grid(PictureSize(*size), IMAGE_SIZE, PER_SIDE)
    sample = make_sample(folders, kind, make_frames(1 + grid.num_tiles, seed=seed), question)
    return sample._replace(media=(sample.media[0]._replace(picture_size=size),))


def make_batches(folders: PartFolders, ranks: list[int], num_steps: int) -> list[Batch]:
    """A batch for every step, with what these ranks read."""
    return [collate([make_content(folders, step, rank) for rank in ranks]) for step in range(num_steps)]


def train(strategy: str, num_steps: int, folders: PartFolders, folder: Path, ranks: list[int]) -> list[float]:
    """Train on what these ranks read; returns the losses of the steps."""
    torch.manual_seed(0)
    module = make_unbuilt_module(
        folders,
        encoder=partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1, max_frames_per_call=3),
        projector=MlpProjector,
        newline=Newline,
        picture_layout=partial(TileLayout, tile_size=IMAGE_SIZE, per_side=PER_SIDE),
        visual_prompt="<memory><newline>",
        optimization=Optimization(RATES | {"projector": 1e-3, "newline": 1e-2}),
    )
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        num_steps,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=make_strategy(strategy),
        logger=logger,
        use_distributed_sampler=False,
        callbacks=[HangWatch()],
    )
    trainer.fit(module, make_loader(make_batches(folders, ranks, num_steps)))
    faulthandler.cancel_dump_traceback_later()
    return logger.values("train/loss")


def main(encoder: str, language_model: str, folder: str, num_steps: str, *strategies: str) -> None:
    """Train with every strategy; the first rank writes the losses to ``FOLDER/STRATEGY.json``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # thousands of lines would hide the stack traces
    rank = int(os.environ["RANK"])
    for strategy in strategies:
        losses = train(strategy, int(num_steps), PartFolders(encoder, language_model), Path(folder), [rank])
        if rank == 0:
            Path(folder, f"{strategy}.json").write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
