"""Measures how much time monitoring takes: ``python -m benchmarks.monitoring --threads 1 --clock cpu``.

One training run alternates blocks of steps with and without the callbacks of ``lightning_modules.monitoring``. A block
is as long as the logging interval, so each block with callbacks writes its values once. Prints the median time of a
step in both; the ratio of each block to the blocks beside it, with a 95 % bootstrap interval over blocks; and the time
inside the callbacks as a share of the step, which varies less. The first two blocks do not count, because each new
length is counted once there. Exits with 1 if the complete interval is above 1.01.

The model resembles the quickstart's: cached features, a recurrent bridge and a small Llama, all trained. Lengths of
videos differ from batch to batch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from benchmarks.command_options import CLOCKS, add_clock_option, add_numbers, numbers_in
from benchmarks.iteration_loss import Sizes, build_model
from command_errors import run_and_exit
from components.bridges.recurrent import RecurrentMemoryBridge
from components.encoders.cached import CachedFeatures
from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.segmenters.fixed_length import FixedLength
from datamodules.batch import Batch, Question
from lightning_modules.monitoring import GradientMonitor, MemoryTokenMonitor, ThroughputMonitor
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule

LIMIT = 1.01
_WIDTH, _PATCHES = 384, 9
_HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class Settings(NamedTuple):
    """Size of the run."""

    blocks: int = 40
    interval: int = 8  # every block has each of the batches once
    videos: int = 16
    most_frames: int = 16
    layers: int = 4
    width: int = 256


class TakingTurns(Callback):
    """Calls the monitors in every second block of steps, and times the blocks.

    Attributes:
        seconds: Mean seconds of a step, one number a block: True for blocks with monitors, False for the others.
        inside: Mean seconds of a step that the monitors' calls took, one number a block with monitors.
    """

    def __init__(self, monitors: Sequence[Callback], interval: int, clock: Callable[[], float]) -> None:
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.inside: list[float] = []
        self._inside = 0.0
        self._monitors = monitors
        self._interval = interval
        self._clock = clock
        self._works = True
        self._began: float | None = None
        for hook in _HOOKS:
            setattr(self, hook, self._forwarding(hook, getattr(self, hook)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the monitors."""
        for monitor in self._monitors:
            monitor.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop them."""
        for monitor in self._monitors:
            monitor.on_train_end(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Switch between blocks, when the last step is complete, including writing the log."""
        if batch_idx % self._interval:
            return
        now = self._now()
        if self._began is not None and batch_idx > 2 * self._interval:  # the first two warm up
            self.seconds[self._works].append((now - self._began) / self._interval)
            if self._works:
                self.inside.append(self._inside / self._interval)
        self._inside = 0.0
        self._works = not self._works
        for monitor in self._monitors:
            monitor.on_validation_start(trainer, pl_module)  # a pause
        self._began = self._now()

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._clock()

    def _forwarding(self, hook: str, own: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            own(*arguments)
            if self._works:
                start = self._clock()
                for monitor in self._monitors:
                    getattr(monitor, hook)(*arguments)
                self._inside += self._clock() - start

        return call


def build_module(settings: Settings, device: torch.device) -> VideoLanguageModule:
    """A model like the quickstart's."""
    language_model = build_model(Sizes(layers=settings.layers, width=settings.width), device, freeze=False)
    return VideoLanguageModule(
        encoder=lambda: CachedFeatures(_WIDTH, _PATCHES),
        bridge=lambda dim, out_dim: RecurrentMemoryBridge(dim, out_dim, num_memory=16, recurrence="selective"),
        language_model=lambda: language_model,
        segmenter=FixedLength(4),
        optimization=Optimization({"bridge": 1e-4, "language_model": 1e-4}),
    )


def build_batch(settings: Settings, seed: int) -> Batch:
    """Videos of one length, which differs between batches, and a conversation about each."""
    generator = torch.Generator().manual_seed(seed)
    num_frames = int(torch.randint(settings.most_frames // 2, settings.most_frames + 1, (1,), generator=generator))
    words = int(torch.randint(24, 48, (1,), generator=generator))
    counts = torch.full((settings.videos,), num_frames)
    ids = torch.randint(3, Sizes().vocabulary, (settings.videos, words), generator=generator)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, -4:] = ids[:, -4:]
    ids[:, 2] = VIDEO_PLACEHOLDER
    questions = [
        Question(f"{seed}-{video}", "q", "made", "any", "?", "!", (), num_frames, {})
        for video in range(settings.videos)
    ]
    return Batch(
        frames=torch.randn(int(counts.sum()), 1 + _PATCHES, _WIDTH, generator=generator),
        frame_counts=counts,
        frame_ms=torch.arange(num_frames).repeat(settings.videos) * 1000,
        picture_sizes=torch.zeros(settings.videos, 2, dtype=torch.int64),
        input_ids=ids,
        text_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        video_index=torch.arange(settings.videos)[:, None],
        questions=questions,
    )


def ratio_to_neighbours(with_them: Sequence[float], without: Sequence[float]) -> tuple[float, float, float]:
    """Time of a block with monitors, relative to the two blocks without them beside it.

    Other work on the machine changes slowly, so it slows neighbouring blocks equally.

    Args:
        with_them: Seconds of each block, in order.
        without: Of the blocks before each of them, and perhaps of one more after the last.

    Returns:
        Median of the ratios, and the ends of its 95 % bootstrap interval over the blocks.
    """
    after = [*without[1:], *without[-1:]]
    ratios = np.array([2 * own / (one + other) for own, one, other in zip(with_them, without, after, strict=False)])
    resampled = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def measure(settings: Settings, clock: Callable[[], float], device: torch.device) -> TakingTurns:
    """Train, alternating blocks with and without callbacks."""
    module = build_module(settings, device)
    batches = [build_batch(settings, seed) for seed in range(settings.interval)]
    monitors = [ThroughputMonitor(peak_flops=1e12), GradientMonitor(), MemoryTokenMonitor()]
    turns = TakingTurns(monitors, settings.interval, clock)
    num_steps = (settings.blocks + 2) * settings.interval + 1
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=device.type,
            devices=1,
            max_steps=num_steps,
            logger=TensorBoardLogger(folder),
            callbacks=[turns],
            log_every_n_steps=settings.interval,
            gradient_clip_val=1.0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(
            [batches[step % settings.interval] for step in range(num_steps)], batch_size=None, collate_fn=_as_it_is
        )
        trainer.fit(module, loader)
    return turns


def _as_it_is(batch: Any) -> Any:
    return batch


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if the callbacks cost more than allowed.
    """
    parser = argparse.ArgumentParser(description="Cost of the monitoring callbacks.")
    add_numbers(parser, Settings()._asdict())
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_clock_option(parser)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = Settings(**numbers_in(options, Settings._fields))

    start = time.perf_counter()
    turns = measure(settings, CLOCKS[options.clock], torch.device(options.device))
    seconds, inside = turns.seconds, statistics.median(turns.inside)
    ratio, low, high = ratio_to_neighbours(seconds[True], seconds[False])
    medians = {works: statistics.median(values) * 1000 for works, values in seconds.items()}
    print(f"{settings}, {options.device}, {options.clock} clock, torch {torch.__version__}")
    print("| blocks each | step without, ms | step with, ms | ratio to neighbours | 95 % interval | inside callbacks |")
    print("|---|---|---|---|---|---|")
    count = min(len(values) for values in seconds.values())
    print(f"| {count} | {medians[False]:.1f} | {medians[True]:.1f} | {ratio:.4f} | {low:.4f} to {high:.4f} ", end="")
    print(f"| {inside * 1000:.2f} ms, {inside / statistics.median(seconds[True]):.2%} |")
    verdict = "met" if high <= LIMIT else "MISSED" if low > LIMIT else "not decided by this run"
    print(f"limit {LIMIT}: {verdict} ({time.perf_counter() - start:.0f} s)")
    return 1 if low > LIMIT else 0


if __name__ == "__main__":
    run_and_exit(main)
