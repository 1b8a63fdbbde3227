"""Evaluates during a tiny run under one strategy after another, in one process of a group; see
test_evaluation_callback.py."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from components.model import VideoLanguageModel
from components.step_evaluation import EvaluatedFigures
from datamodules.batch import Batch
from lightning_modules.monitoring import PeriodicEvaluation
from membridge.haystack_test.haystack_evaluation import HaystackEvaluation
from tests.fixtures_models import PartFolders, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_with_strategies import make_batches, make_strategy

NUM_STEPS = 4
CONFIG = """
class_path: datamodules.haystack.haystack_benchmark.HaystackBenchmark
init_args:
  grid: {lengths_s: [3, 9], depths: [0, 1], controls: 1}
  chosen_by: text
"""


class ReadingByTime(HaystackEvaluation):
    """Frames are read by time, so that the model is streamed."""

    def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
        frames = model.training_facts.frames
        by_time = type(frames)(frames.size, frames.fit, None, 2.0)
        model.training_facts = model.training_facts._replace(frames=by_time)
        return super().__call__(model, step)


def evaluated_run(
    name: str,
    folders: PartFolders,
    folder: Path,
    rank: int,
    num_ranks: int,
    **changes: Any,
) -> dict[str, Any]:
    """What was logged of the evaluations, and the weights at the end."""
    (folder / f"{rank}.yaml").write_text(CONFIG, encoding="utf-8")
    torch.manual_seed(0)
    module = make_unbuilt_module(folders)
    logger = RecordingLogger()
    classes = (HaystackEvaluation, ReadingByTime)
    evaluations = [
        PeriodicEvaluation(each(str(folder / f"{rank}.yaml"), max_new_tokens=2), 2, each.__name__) for each in classes
    ]
    trainer = make_trainer(
        folder,
        NUM_STEPS,
        devices=num_ranks,
        strategy=make_strategy(name),
        logger=logger,
        use_distributed_sampler=False,  # the batches are shared out already
        **({"callbacks": evaluations} | changes),
    )
    batches: list[Batch] = make_batches(folders, rank, num_ranks, NUM_STEPS)
    trainer.fit(module, make_loader(batches))
    found = [
        [step, curve, value]
        for step, values in logger.logged
        for curve, value in values.items()
        if curve.startswith((HaystackEvaluation.__name__, ReadingByTime.__name__))
    ]
    losses = [values["train/loss"] for _, values in logger.logged if "train/loss" in values]
    return {"found": found, "losses": losses}


def main(names: str, encoder: str, language_model: str, folder: str) -> None:
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    for name in names.split(","):
        found = evaluated_run(name, PartFolders(encoder, language_model), Path(folder), rank, num_ranks)
        (Path(folder) / f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
