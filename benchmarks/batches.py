"""Measures how evenly ranks are loaded, and how long planning batches takes: ``python -m benchmarks.batches``.

Plans a pass over random lengths of videos (log-normal durations, one frame a second), images and text. For every way to
make batches and every number of ranks it prints: the share of steps in which the busiest rank has at most 1.1 times the
mean work; the largest such ratio of a step; the ratio over all steps if ranks wait for the busiest in each step; and
the ratio of the busiest rank over the pass. ``datamodules.order.draws.Cost`` counts the work. No video is read, no
model runs.
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from benchmarks.command_options import CLOCKS, add_clock_option
from command_errors import run_and_exit
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import MODALITIES, Cost, SampleTable
from datamodules.order.global_batches import GlobalBatches, global_batches
from datamodules.order.rank_batches import split_over_ranks
from datamodules.order.stream import SourceSamples
from datamodules.order.training_order import TrainingOrder

VISUAL_TOKENS = 64
SHARES = {"video": 0.6, "image": 0.25, "text": 0.15}


class Balance(NamedTuple):
    """How evenly the ranks are loaded."""

    batches: int
    draws: float  # of a global batch, on average
    within_limit: float  # share of the steps in which the busiest rank has at most 1.1 times the mean work
    worst: float  # busiest rank's work over the mean, in the worst step
    lost: float  # the busiest ranks' work of all steps over the mean work
    epoch: float  # the busiest rank's work of all steps over the mean


def make_samples(count: int, seed: int = 0, max_frames: int = 512) -> SampleTable:
    """Make random lengths of a mixed training set: 60 % videos of about half a minute, images and text.

    Args:
        count: Samples.
        seed: Seed of the lengths.
        max_frames: Most frames of a video.
    """
    generator = np.random.default_rng(seed)
    kinds = [MODALITIES.index(name) for name in SHARES]
    modality = generator.choice(kinds, count, p=list(SHARES.values()))
    seconds = np.exp(generator.normal(np.log(30), 1.2, count))
    frames = np.where(modality == MODALITIES.index("video"), np.clip(np.rint(seconds), 1, max_frames), 1)
    frames[modality == MODALITIES.index("text")] = 0
    conversations = np.minimum(generator.geometric(0.4, count), 12)
    text = np.clip(np.exp(generator.normal(np.log(150), 0.9, conversations.sum())), 20, 2048)
    visual = np.repeat(np.where(modality == MODALITIES.index("text"), 0, VISUAL_TOKENS), conversations)
    return SampleTable(
        frames=frames.astype(np.int64),
        modality=modality,
        first_conversation=np.concatenate([[0], np.cumsum(conversations)]),
        tokens=np.rint(text).astype(np.int64) + visual,
    )


def make_batches(
    samples: SampleTable, order: TrainingOrder, batch_size: int | None, budget: Budget | None
) -> GlobalBatches:
    """Make global batches of these samples, in shards of 1,000."""
    numbers = np.arange(len(samples.frames))
    shards = tuple(np.array_split(numbers, -(-len(numbers) // 1000)))
    cost = Cost(visual_tokens=VISUAL_TOKENS)
    return global_batches([SourceSamples(shards, 1.0)], samples, order, cost=cost, batch_size=batch_size, budget=budget)


def measure(batches: GlobalBatches, world_size: int, num_batches: int, limit: float = 1.1) -> Balance:
    """Split the first batches over ranks and compare the ranks' work.

    Args:
        batches: The global batches.
        world_size: Number of ranks.
        num_batches: How many batches.
        limit: Most work of the busiest rank, over the mean.
    """
    works = []
    num_draws = 0
    for draws, costs in islice(batches.after(0), num_batches):
        works.append([costs[part].sum() for part in split_over_ranks(costs, world_size)])
        num_draws += len(draws)
    work = np.array(works)  # [steps, ranks]
    ratio = work.max(axis=1) / work.mean(axis=1)
    return Balance(
        batches=len(work),
        draws=num_draws / len(work),
        within_limit=float((ratio <= limit).mean()),
        worst=float(ratio.max()),
        lost=float(work.max(axis=1).sum() / work.mean(axis=1).sum()),
        epoch=float(work.sum(axis=0).max() / work.sum(axis=0).mean()),
    )


WAYS: dict[str, tuple[TrainingOrder, int | None, Budget | None]] = {
    "batch_size 64": (TrainingOrder(), 64, None),
    "batch_size 64, separate": (TrainingOrder(modalities="separate"), 64, None),
    "budget": (TrainingOrder(), None, Budget(4096, 65536)),
    "budget, separate": (TrainingOrder(modalities="separate"), None, Budget(4096, 65536)),
    "budget, 2 conversations a video": (TrainingOrder(conversations_per_video=2), None, Budget(4096, 65536)),
}


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="samples for the table of balance")
    parser.add_argument("--planned", type=int, default=1_000_000, help="samples whose pass is planned and timed")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    add_clock_option(parser)
    options = parser.parse_args(args)
    samples = make_samples(options.samples)
    print("| batches | number | draws a batch | ranks | steps within 1.1 | worst step | all steps | a pass |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (order, batch_size, budget) in WAYS.items():
        batches = make_batches(samples, order, batch_size, budget)
        for world_size in options.ranks:
            found = measure(batches, world_size, batches.batches_per_pass)
            print(
                f"| {name} | {found.batches} | {found.draws:.1f} | {world_size} | {found.within_limit:.1%} | "
                f"{found.worst:.2f} | {found.lost:.3f} | {found.epoch:.3f} |"
            )
    samples = make_samples(options.planned)
    clock = CLOCKS[options.clock]
    for name, (order, batch_size, budget) in WAYS.items():
        start = clock()
        batches = make_batches(samples, order, batch_size, budget)
        made = clock()
        count = batches.batches_per_pass
        print(f"{name}: {made - start:.2f} s to begin, {clock() - made:.2f} s to plan a pass of {count} batches")


if __name__ == "__main__":
    run_and_exit(main)
