r"""Trains a model of four readers on conversations about several media, in a group of processes.

    torchrun --nproc_per_node 2 -m tests.process_end \
        tests.lightning_modules.strategies.train_on_several_media ENCODER LLM FOLDER RUN...

A run is ``strategy,schedule,steps``. What each rank reads in a step depends on step and rank alone, so one process can
read what several ranks read. The folders of the parts are those of ``tests.fixtures_models.make_part_folders``.
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
from torch import Tensor

from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.building import ReaderSettings
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.projectors.mlp import MlpProjector
from components.readers.fine_frames import FineFrames
from components.readers.token_store import TokenStore
from components.stream_dropout import StreamDropout
from datamodules.batch import Batch
from lightning_modules.optimization import Optimization
from tests.fixtures_models import PartFolders, make_bridge, make_frames
from tests.fixtures_streams import RATES_OF_STREAMS, Asked, HalfOfTokens, make_media_batch, make_module_of_streams
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_on_mixed_batches import SCHEDULES, HangWatch
from tests.lightning_modules.strategies.train_with_strategies import make_strategy

KINDS = ("text", "image", "several", "mixed")
PAIRS = tuple(itertools.product(KINDS, repeat=2))
"""What the two ranks read in a step: text alone, an image, several media, or all of these."""

OPTIONS = GridMemoryOptions(recompute=True, cut_gradients_every=2)
SIZES = {"num_cells": 4, "num_memory": 2, "depth": 1, "num_heads": 2, "cache_limit": 2}
READERS = {
    "memory": ReaderSettings(make_bridge),
    "frames": ReaderSettings(partial(FineFrames, num_frames=3, capacity=4)),
    "grid": ReaderSettings(partial(GridMemory, **SIZES, options=OPTIONS)),
    "all": ReaderSettings(TokenStore, reducer=HalfOfTokens),
}


def make_content(step: int, rank: int) -> tuple[list[Tensor], list[Asked]]:
    """Media and conversations that a rank reads in a step; 16 steps hold each pair of kinds once."""
    draw = random.Random(f"{step}/{rank}")
    kind = PAIRS[step % len(PAIRS)][rank]
    question, answer = draw.choice(["which colour ?", "how many ?"]), draw.choice(["red", "blue square and then green"])
    media: list[Tensor] = []
    asked: list[Asked] = []
    if kind in ("text", "mixed"):
        asked += [Asked((), question, answer)] * draw.randint(1, 2)
    if kind in ("image", "mixed"):
        media.append(make_frames(1, seed=draw.randrange(1000)))
        asked.append(Asked((0,), question, answer))
    if kind in ("several", "mixed"):
        media += [make_frames(draw.choice([1, 2, 5, 9]), seed=draw.randrange(1000)) for _ in range(draw.randint(2, 3))]
        asked.append(Asked(tuple(range(len(media))), question, answer))
        some = draw.sample(range(len(media)), draw.randint(1, len(media)))  # in any order
        asked.append(Asked(tuple(some), question, answer))
    return media, asked


def make_batches(folders: PartFolders, ranks: list[int], num_steps: int) -> list[Batch]:
    """A batch for every step, with what these ranks read."""
    batches = []
    for step in range(num_steps):
        media: list[Tensor] = []
        conversations: list[Asked] = []
        for rank in ranks:
            own, asked = make_content(step, rank)
            first = len(media)
            conversations += [each._replace(media=tuple(first + number for number in each.media)) for each in asked]
            media += own
        batches.append(make_media_batch(folders, media, conversations))
    return batches


def train(
    strategy: str, schedule: str, num_steps: int, folders: PartFolders, folder: Path, ranks: list[int]
) -> list[float]:
    """Train on what these ranks read; returns the losses of the steps."""
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    few_frames_a_call = partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1, max_frames_per_call=4)
    torch.manual_seed(0)
    module = make_module_of_streams(
        folders,
        encoder=few_frames_a_call,
        readers=READERS,
        projector=MlpProjector,
        visual_prompt="first :<memory>then :<frames><grid>and :<all>",
        optimization=Optimization(RATES_OF_STREAMS | {"projector": 1e-3, "grid": 1e-3, "all": 1e-3}),
        loss_schedule=SCHEDULES[schedule],
        stream_schedule=StreamDropout({"frames": 0.3}),
    )
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        num_steps,
        devices=num_processes,
        strategy=make_strategy(strategy),
        logger=logger,
        use_distributed_sampler=False,
        callbacks=[HangWatch()],
    )
    trainer.fit(module, make_loader(make_batches(folders, ranks, num_steps)))
    faulthandler.cancel_dump_traceback_later()
    return logger.values("train/loss")


def main(encoder: str, language_model: str, folder: str, *runs: str) -> None:
    """Train every run; the first rank writes the losses to ``FOLDER/RUN.json``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # thousands of lines would hide the stack traces
    rank = int(os.environ["RANK"])
    for run in runs:
        strategy, schedule, num_steps = run.split(",")
        losses = train(strategy, schedule, int(num_steps), PartFolders(encoder, language_model), Path(folder), [rank])
        if rank == 0:
            Path(folder, f"{run}.json").write_text(json.dumps(losses), encoding="utf-8")
            print(f"{run}: {len(losses)} steps, 0 hangs, loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
