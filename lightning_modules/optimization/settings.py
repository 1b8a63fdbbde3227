"""The settings under ``model.optimization``."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingPoint:
    """A point in training, given as exactly one of step, epoch and fraction.

    Args:
        step: Optimizer steps before it.
        epoch: Passes over the training data before it.
        fraction: Share of the run's optimizer steps before it.

    Raises:
        ValueError: None or several are given, or the value is not above zero.
    """

    step: int | None = None
    epoch: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.step, self.epoch, self.fraction) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(f"give exactly one of step, epoch and fraction, above zero; got {self}")


@dataclass(frozen=True)
class NonFinite:
    """Settings for steps whose loss or gradient is NaN or infinite. They are skipped on all ranks.

    Args:
        stop_after: The run stops after this many skipped steps in a row; 1 stops at the first one.
        dump: Folder to which the samples of such steps are written. All batches of a step then stay in memory until the
            step ends; with gradient accumulation these are several.

    Raises:
        ValueError: ``stop_after`` is not positive.
    """

    stop_after: int = 5
    dump: str | None = None

    def __post_init__(self) -> None:
        if self.stop_after < 1:
            raise ValueError(f"non_finite.stop_after must be at least 1, got {self.stop_after}")


@dataclass
class Optimization:
    """Settings of AdamW and of the warm-up + cosine schedule. Every mapping goes from a part to its value.

    Args:
        learning_rates: Peak learning rate of every part that trains (``bridge``, ``language_model``, ``encoder``,
            ``projector``, ``patch_pooling``, ``reducers``; the adapters of a part with LoRA). One of several readers
            has its name in ``model.readers``.
        weight_decay: Decay of tensors of two dimensions or more, for all parts or part by part (0 where not named);
            biases, norms and gates are not decayed.
        betas: Decay rates of AdamW's two moments.
        warmup_fraction: Share of a part's training in which its rate rises linearly.
        final_fraction: Rate at the end of the cosine, as a share of the peak rate.
        frozen_until: When a part begins to train; it is frozen until then. Parts that are not named train from the
            start. Warm-up and cosine of a part begin when it does, and end with the run.
        averages: Parts whose weights are averaged, and the decay of the average (such as 0.999). The average is the
            optimizer state ``average``, float32.
        validate_averages: Validate with these averages instead of the weights.
        non_finite: What happens to a step whose loss or gradient is not finite.
    """

    learning_rates: dict[str, float] = field(default_factory=lambda: {"bridge": 2e-4, "language_model": 2e-5})
    weight_decay: float | dict[str, float] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: float = 0.03
    final_fraction: float = 0.0
    frozen_until: dict[str, TrainingPoint] = field(default_factory=dict)
    averages: dict[str, float] = field(default_factory=dict)
    validate_averages: bool = False
    non_finite: NonFinite = NonFinite()

    def decay_of(self, part: str) -> float:
        """Weight decay of a part's matrices."""
        return self.weight_decay.get(part, 0.0) if isinstance(self.weight_decay, dict) else self.weight_decay
