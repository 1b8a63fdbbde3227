import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.optimization import NonFinite, Optimization, RateSchedule, TrainingPoint
from lightning_modules.optimization.rate_schedule import steps_per_epoch


def shares(settings: Optimization, num_steps: int, part: str = "bridge") -> list[float]:
    schedule = RateSchedule(settings, num_steps, lambda: 10.0)
    return [schedule.share(part, step) for step in range(num_steps)]


def test_rate_climbs_linearly_then_falls_to_its_final_share() -> None:
    rates = shares(Optimization(warmup_fraction=0.1, final_fraction=0.2), 100)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.6)  # half way down
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_schedule_of_a_very_short_run_trains_in_its_first_step(num_steps: int) -> None:
    assert shares(Optimization(), num_steps)[0] == 1.0


@pytest.mark.parametrize(
    ("moment", "first"), [(TrainingPoint(step=30), 30), (TrainingPoint(fraction=0.4), 40), (TrainingPoint(epoch=2), 20)]
)
def test_frozen_part_has_no_rate_and_then_the_warm_up_and_cosine_of_a_run_of_its_own(
    moment: TrainingPoint, first: int
) -> None:
    settings = Optimization(warmup_fraction=0.1, frozen_until={"language_model": moment})
    late, whole = shares(settings, 100, "language_model"), shares(settings, 100)
    assert late[:first] == [0.0] * first
    assert late[first:] == shares(Optimization(warmup_fraction=0.1), 100 - first)
    assert whole == shares(Optimization(warmup_fraction=0.1), 100)


def test_rates_of_the_groups_are_their_parts_peaks_by_share() -> None:
    settings = Optimization({"bridge": 0.5, "encoder": 2.0}, frozen_until={"encoder": TrainingPoint(step=2)})
    groups: list[dict[str, Any]] = [{"name": "bridge", "lr": 9.0}, {"name": "encoder/no_decay", "lr": 9.0}]
    schedule = RateSchedule(settings, 4, lambda: 1.0)
    schedule.apply(groups, 0)
    assert [group["lr"] for group in groups] == [0.5, 0.0]
    schedule.apply(groups, 2)
    assert [group["lr"] for group in groups] == [0.5 * schedule.share("bridge", 2), 2.0]


def test_schedule_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got -1; set trainer\.max_steps"):
        RateSchedule(Optimization(), -1, lambda: 1.0)


def test_part_that_would_never_train_is_refused() -> None:
    settings = Optimization(frozen_until={"bridge": TrainingPoint(step=5)})
    with pytest.raises(ValueError, match="'bridge' begin at step 5, but the run ends after 5 steps"):
        RateSchedule(settings, 5, lambda: 1.0)


@pytest.mark.parametrize("values", [{}, {"step": 3, "epoch": 1.0}, {"step": 0}, {"fraction": -0.1}])
def test_moment_that_says_nothing_or_too_much_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of step, epoch and fraction"):
        TrainingPoint(**values)


def test_limit_of_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="stop_after must be at least 1, got 0"):
        NonFinite(stop_after=0)


def test_epoch_is_a_pass_of_the_datamodule_where_it_knows_one_and_lightnings_otherwise() -> None:
    trainer: Any = SimpleNamespace(num_training_batches=40, accumulate_grad_batches=2)
    assert steps_per_epoch(trainer) == 20
    trainer.datamodule = SimpleNamespace(batches_per_pass=7)
    assert steps_per_epoch(trainer) == 3.5
    trainer.datamodule = SimpleNamespace(batches_per_pass=0)
    with pytest.raises(ValueError, match="has 0 batches, so no part can begin at an epoch"):
        steps_per_epoch(trainer)
