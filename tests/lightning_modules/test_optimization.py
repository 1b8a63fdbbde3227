import itertools
import math

import pytest
import torch
from torch import nn

from lightning_modules.optimization import Optimization, build_optimizer, build_schedule, gradient_norm


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2).requires_grad_(False)
        self.bridge = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.language_model = nn.Linear(3, 2)


def test_every_trainable_parameter_is_in_one_group_with_its_parts_rate() -> None:
    parts = Parts()
    optimizer = build_optimizer(parts, Optimization({"bridge": 1e-3, "language_model": 1e-4}, weight_decay=0.1))
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "bridge": (1e-3, 0.1),
        "bridge/no_decay": (1e-3, 0.0),
        "language_model": (1e-4, 0.1),
        "language_model/no_decay": (1e-4, 0.0),
    }
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in parts.parameters() if p.requires_grad)
    assert all(p.ndim == 1 for name, group in groups.items() if "no_decay" in name for p in group["params"])


def test_part_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="part 'language_model' has 2 trainable tensors but no learning rate"):
        build_optimizer(Parts(), Optimization({"bridge": 1e-3}))


@pytest.mark.parametrize("name", ["encoder", "brigde"])
def test_rate_that_would_do_nothing_is_refused(name: str) -> None:
    rates = {"bridge": 1e-3, "language_model": 1e-4, name: 1e-5}
    with pytest.raises(
        ValueError, match=rf"learning_rates names \['{name}'\], but only \['bridge', 'language_model'\]"
    ):
        build_optimizer(Parts(), Optimization(rates))


def factors(settings: Optimization, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, settings, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


def test_rate_climbs_linearly_then_falls_to_its_final_share() -> None:
    rates = factors(Optimization(warmup_fraction=0.1, final_fraction=0.2), 100)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.6)  # half way down
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_schedule_of_a_very_short_run_trains_in_its_first_step(num_steps: int) -> None:
    assert factors(Optimization(), num_steps)[0] == 1.0


def test_schedule_without_a_length_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=r"got -1; set trainer\.max_steps"):
        build_schedule(optimizer, Optimization(), -1)


def test_gradient_norm_is_that_of_all_gradients_together() -> None:
    with_gradient, other, without = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    with_gradient.grad = torch.tensor([3.0, 0.0])
    other.grad = torch.tensor([0.0, 4.0])
    assert float(gradient_norm([with_gradient, other, without])) == pytest.approx(5.0)
    assert float(gradient_norm([without])) == 0.0
    assert not math.isnan(float(gradient_norm([])))
