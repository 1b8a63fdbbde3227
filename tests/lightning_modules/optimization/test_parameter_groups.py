import pytest
import torch
from torch import nn

from lightning_modules.optimization import Optimization, TrainingPoint, build_optimizer


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


def test_weight_decay_goes_part_by_part_and_never_to_vectors() -> None:
    settings = Optimization({"bridge": 1e-3, "language_model": 1e-4}, weight_decay={"bridge": 0.05})
    groups = build_optimizer(Parts(), settings).param_groups
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "bridge": 0.05,
        "bridge/no_decay": 0.0,
        "language_model": 0.0,
        "language_model/no_decay": 0.0,
    }


@pytest.mark.parametrize("setting", ["weight_decay", "frozen_until", "averages"])
def test_setting_of_a_part_that_does_not_train_is_refused(setting: str) -> None:
    rates = {"bridge": 1e-3, "language_model": 1e-4}
    value = TrainingPoint(step=1) if setting == "frozen_until" else 0.5
    with pytest.raises(ValueError, match=rf"{setting} names \['encoder'\], but only"):
        build_optimizer(Parts(), Optimization(rates, **{setting: {"encoder": value}}))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_average_that_would_not_move_or_not_average_is_refused(decay: float) -> None:
    settings = Optimization({"bridge": 1e-3, "language_model": 1e-4}, averages={"bridge": decay})
    with pytest.raises(ValueError, match=rf"averages\['bridge'\] is {decay}; a decay lies between 0 and 1"):
        build_optimizer(Parts(), settings)


def test_float16_that_trains_is_refused_with_what_to_set() -> None:
    parts = Parts()
    parts.language_model.half()
    rates = {"bridge": 1e-3, "language_model": 1e-4}
    with pytest.raises(
        ValueError, match=r"'language_model' has 2 trainable tensors in float16.*dtype to float32.*16-mixed"
    ):
        build_optimizer(parts, Optimization(rates))
    parts.language_model.requires_grad_(False)
    parts.encoder.to(torch.float16)
    build_optimizer(parts, Optimization({"bridge": 1e-3}))
    build_optimizer(Parts().to(torch.bfloat16), Optimization(rates))
