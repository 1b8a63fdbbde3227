"""Trains on batches that differ between the ranks in everything they can differ in; see test_mixed_batches.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import faulthandler
import os
import random
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from components.bridges.recurrent import RecurrentMemoryBridge
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import IGNORED_LABEL, TEXT_ONLY, DecodingSettings, TextInputs
from components.losses import EverySegmentLoss, FinalSegmentLoss
from components.model import VideoLanguageModel, text_of
from components.question_text import without_answers
from datamodules.batch import Batch, Sample, collate
from tests.fixtures_models import PartFolders, make_frames, make_sample, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_with_strategies import make_strategy

SECONDS_UNTIL_HUNG = 120.0
SCHEDULES = {"final": FinalSegmentLoss(), "every": EverySegmentLoss()}


class HangWatch(Callback):
    """Prints the stack of every thread and ends the process if a step takes too long."""

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        faulthandler.dump_traceback_later(SECONDS_UNTIL_HUNG, exit=True)

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        faulthandler.dump_traceback_later(SECONDS_UNTIL_HUNG, exit=True)


def make_sample_of(folders: PartFolders, draw: random.Random, kind: str) -> Sample:
    """Text, an image or a video of 2 to 9 frames, with one to three conversations of one or two turns."""
    frames = None
    if kind != "text":
        frames = make_frames(1 if kind == "image" else draw.randint(2, 9), seed=draw.randrange(1000))
    dialogues = [
        [(draw.choice(["which colour ?", "how many ?"]), draw.choice(["red", "blue square and then green"]))]
        * draw.randint(1, 2)
        for _ in range(draw.randint(1, 3))
    ]
    return make_sample(folders, kind, frames, dialogues)


def make_batches(folders: PartFolders, rank: int, num_steps: int) -> list[Batch]:
    """Batches of one or several kinds of samples, one to four samples each, different on every rank."""
    draw = random.Random(rank)
    batches = []
    for _ in range(num_steps):
        kinds = draw.choice([["text"], ["image"], ["video"], ["text", "image", "video"]])
        samples = [make_sample_of(folders, draw, draw.choice(kinds)) for _ in range(draw.randint(1, 4))]
        batches.append(collate(samples))
    return batches


def main(encoder: str, language_model: str, folder: str, *runs: str) -> None:
    """Train once for every ``strategy,schedule,steps``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # thousands of lines would hide the stack traces
    for run in runs:
        strategy, schedule, num_steps = run.split(",")
        train(strategy, schedule, int(num_steps), PartFolders(encoder, language_model), Path(folder))


def train(strategy: str, schedule: str, num_steps: int, folders: PartFolders, folder: Path) -> None:
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # The ranks need different numbers of encoder calls, segments and readings.
    few_frames_a_call = partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1, max_frames_per_call=4)
    bridge = partial(RecurrentMemoryBridge, width=16, num_memory=3, num_heads=2)
    module = make_unbuilt_module(folders, encoder=few_frames_a_call, bridge=bridge, loss_schedule=SCHEDULES[schedule])
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        num_steps,
        devices=num_ranks,
        strategy=make_strategy(strategy),
        logger=logger,
        use_distributed_sampler=False,
        callbacks=[HangWatch()],
    )
    batches = make_batches(folders, rank, num_steps)
    validation = make_batches(folders, rank + num_ranks, 10)
    trainer.fit(module, make_loader(batches), make_loader(validation))
    options = [["red", "blue", "green square"]] * len(validation[0].questions)
    scores = module.built.score_options(validation[0], options)
    assert len(scores) == len(options)
    num_turns = sum(len(question.turns) for question in validation[2].questions)
    assert len(module.built.evaluate_turns(validation[2], 3, [["red", "blue"]] * num_turns)) == num_turns
    assert len(answer_twice(module.built, validation[1])) == len(validation[1].questions)
    losses = logger.values("train/loss")
    assert len(losses) == num_steps, losses
    assert all(loss == loss and loss < 20 for loss in losses), losses
    some = num_steps // 3
    assert sum(losses[-some:]) < sum(losses[:some]), "nothing was learned"
    faulthandler.cancel_dump_traceback_later()


def answer_twice(model: VideoLanguageModel, batch: Batch) -> list[str]:
    """Answer every question, and another one after it."""
    language_model = model.language_model
    visual, text = without_answers(model.visual_tokens(batch), text_of(batch))
    state = language_model.prefill(visual, text)
    state = language_model.decode(state, DecodingSettings(4)).state
    ids = torch.tensor([[5, 6, 7]]).expand(len(text.input_ids), -1)
    next_turn = TextInputs(ids, ids > 0, torch.full_like(ids, IGNORED_LABEL), ids.new_full((len(ids), 1), TEXT_ONLY))
    return language_model.decode(language_model.extend(state, next_turn), DecodingSettings(4)).texts


if __name__ == "__main__":
    main(*sys.argv[1:])
