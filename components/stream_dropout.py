"""Leaves visual streams out of some training steps."""

import random
from collections.abc import Mapping

from components.interfaces import StreamSchedule


class StreamDropout(StreamSchedule):
    """Leaves out each named stream with a probability of its own, drawn from a seed and the number of the batch.

    So the language model learns to answer from the other streams too, such as from the memory without fine frames.

    Args:
        rates: Stream -> probability in 0..1 that a batch is trained without it.
        seed: Seed of the draws.

    Raises:
        ValueError: A rate is no probability.

    Source: the frame dropout of the Memory-Augmented VLM code, which tosses one coin a step for all ranks.
    """

    def __init__(self, rates: Mapping[str, float], seed: int = 0) -> None:
        wrong = {name: rate for name, rate in rates.items() if not 0.0 <= rate <= 1.0}
        if wrong:
            raise ValueError(f"StreamDropout's rates must be probabilities in 0..1, got {wrong}")
        self.rates = dict(rates)
        self.seed = seed

    def left_out(self, training_batch: int) -> frozenset[str]:
        """See ``StreamSchedule``."""
        return frozenset(
            name
            for name, rate in self.rates.items()
            if random.Random(f"{self.seed}/{training_batch}/{name}").random() < rate
        )
