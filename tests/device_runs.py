"""Runs the models of configs on the CPU and on the pretended device, and writes how far they differ.

``tests/test_configs_on_device.py`` starts it in a process of its own, because the device stays registered:
``python -m tests.device_runs FOLDER [--move-inputs] NAME...`` writes ``FOLDER/results.json``, a ``Result`` for each
config.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import copy
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from datamodules.batch import Batch
from lightning_modules.video_language import VideoLanguageModule
from tests.config_models import build_module_of, make_inputs_of
from tests.fixtures_models import make_quickstart_parts
from tests.pretend_device import DEVICE, PretendedDevice, Wait, move_model, values_of

QUESTION = "which colour ?"
OPTIONS = [["red", "green circle"], ["one", "two", "three"], ["yes", "no"], ["blue", "red"]]


class Result(NamedTuple):
    """How a config runs on the pretended device."""

    differences: dict[str, float]  # of what was computed from the CPU's, relative to the largest value
    waits: list[Wait]  # of a training step
    error: str = ""  # with its traceback; then there is nothing else


def train_step(module: VideoLanguageModule, batch: Batch) -> dict[str, Any]:
    """A step: its loss and gradients."""
    model, optimizer = module.built.train(), module.configure_optimizers()
    torch.manual_seed(2)
    loss = model(batch).loss
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    gradients = {f"gradient of {name}": values_of(gradient).clone() for name, gradient in gradients.items()}
    optimizer.step()
    return {"loss": loss.detach(), **gradients}


def answers(model: VideoLanguageModel, batch: Batch) -> dict[str, Any]:
    """Generated answers and scores of options."""
    scores = model.score_options(batch, OPTIONS)
    return {"answers": model.generate(batch, 3), "scores": torch.cat(scores)}


def stream(model: VideoLanguageModel, batch: Batch) -> dict[str, Any]:
    """What a stream of the first video closes, sees and answers."""
    session = StreamingSession(model)
    count = int(batch.frame_counts[0])
    for some in (slice(3), slice(3, count)):
        session.push(batch.frames[some], batch.frame_ms[some])
    seen = values_of(session.visual_tokens(model.language_model.prompts([QUESTION])))
    return {
        "boundaries": session.boundaries,
        "visual tokens": seen.tokens[seen.mask],
        "streamed answer": session.ask(QUESTION, 3),
    }


def run(module: VideoLanguageModule, batch: Batch) -> dict[str, Any]:
    """Answer with the trained weights, and stream where the model can."""
    model = module.built
    torch.manual_seed(2)
    results = {"loss after the step": model(batch).loss.detach(), **answers(model.eval(), batch)}
    streams = model.segmenter.stream() is not None and model.frame_resampling is None
    return results | stream(model, batch) if streams else results


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference relative to the largest value; infinite where something differs that is no tensor."""
    if not isinstance(theirs, Tensor):
        return 0.0 if ours == theirs else float("inf")
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)) if theirs.numel() else 0.0


def move_inputs(model: VideoLanguageModel) -> None:
    """Let every part move what it gets to the device, as a strategy does that wraps each part (FSDP2 on CUDA)."""

    def moved(tree: Any) -> Any:
        return tree_map_only(Tensor, lambda tensor: tensor.to(DEVICE), tree)

    for part in model.children():
        for method in ("forward", *getattr(part, "weight_reading_methods", ())):
            call = getattr(part, method)
            setattr(part, method, lambda *args, _call=call, **options: _call(*moved(args), **moved(options)))


def compare(name: str, *, moving: bool) -> Result:
    """Run a config on both devices."""
    try:
        return _compare(name, moving)
    except (SystemExit, Exception):  # fails the tests of this config only
        return Result({}, [], traceback.format_exc())


def _compare(name: str, moving: bool) -> Result:
    module = build_module_of(name)
    batch, copied = make_inputs_of(module.built), copy.deepcopy(module.built)
    expected = train_step(module, batch) | run(module, batch)
    module.model = copied
    with PretendedDevice() as device:
        move_model(copied)
        if moving:
            move_inputs(copied)
        batch = module.transfer_batch_to_device(batch, DEVICE, 0)
        device.waits.clear()
        results = train_step(module, batch)
        waits = list(device.waits)
        results = values_of(results | run(module, batch))
    if results.keys() != expected.keys():
        raise AssertionError(f"not the same was computed: {results.keys() ^ expected.keys()}")
    return Result({key: difference(results[key], expected[key]) for key in expected}, waits)


def main(folder: str, arguments: Sequence[str]) -> None:
    """Compare the configs; the folder gets tiny parts at the paths that they name."""
    torch.set_num_threads(1)
    os.chdir(folder)
    make_quickstart_parts(Path())
    names = [each for each in arguments if each != "--move-inputs"]
    results = {name: compare(name, moving="--move-inputs" in arguments) for name in names}
    Path("results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
