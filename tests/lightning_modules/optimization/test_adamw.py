import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_modules.optimization.adamw import AVERAGE, PartwiseAdamW

BETAS = (0.9, 0.99)


def make_parameter(dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3))


def make_optimizer(*parameters: nn.Parameter, average: float | None = None) -> PartwiseAdamW:
    groups = [
        {"name": f"part{i}", "params": [p], "lr": 0.1, "weight_decay": 0.1, "average_decay": average}
        for i, p in enumerate(parameters)
    ]
    return PartwiseAdamW(groups, BETAS)


def take_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            generator = torch.Generator().manual_seed(step)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    optimizer.step()


def states(optimizer: PartwiseAdamW) -> list[Tensor]:
    return [value.clone() for state in optimizer.state.values() for value in state.values()]


def test_equals_torchs_adamw_where_nothing_is_frozen_or_skipped() -> None:
    own, theirs = make_parameter(), make_parameter()
    optimizers = make_optimizer(own, average=0.9), AdamW([theirs], lr=0.1, betas=BETAS, weight_decay=0.1)
    for step in range(5):
        for optimizer in optimizers:
            take_step(optimizer, step)
        assert torch.equal(own, theirs)


def test_group_at_rate_zero_keeps_its_weights_and_takes_no_moments_and_then_starts_as_if_new() -> None:
    late, early, alone = make_parameter(), make_parameter(), make_parameter()
    optimizer, reference = make_optimizer(early, late, average=0.9), make_optimizer(alone, average=0.9)
    optimizer.param_groups[1]["lr"] = 0.0
    for step in range(3):
        take_step(optimizer, step)
        assert torch.equal(late, alone)
    assert late not in optimizer.state
    assert not torch.equal(early, late)
    optimizer.param_groups[1]["lr"] = 0.1
    for step in range(3, 6):
        take_step(optimizer, step)
        take_step(reference, step)
        assert torch.equal(late, alone)
    assert torch.equal(optimizer.state[late][AVERAGE], reference.state[alone][AVERAGE])


def test_skipped_step_changes_nothing_and_counts_no_update() -> None:
    parameter = make_parameter()
    optimizer = make_optimizer(parameter, average=0.9)
    take_step(optimizer, 0)
    weights, before = parameter.detach().clone(), states(optimizer)
    optimizer.skips = True
    parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    assert torch.equal(parameter, weights)
    assert all(torch.equal(one, other) for one, other in zip(states(optimizer), before, strict=True))
    assert optimizer.num_updates == 1


def test_closure_may_decide_to_skip() -> None:
    parameter = make_parameter()
    optimizer = make_optimizer(parameter)

    def closure() -> str:
        assert torch.is_grad_enabled()
        parameter.grad = torch.ones_like(parameter)
        optimizer.skips = True
        return "loss"

    assert optimizer.step(closure) == "loss"
    assert torch.equal(parameter, make_parameter())


def test_average_equals_its_closed_form() -> None:
    decay, parameter = 0.75, make_parameter()
    optimizer = make_optimizer(parameter, average=decay)
    weights = []
    for step in range(9):
        take_step(optimizer, step)
        weights.append(parameter.detach().double().clone())
    # The mean of the first four weights, then an exponential average; the weights before training are not in it.
    expected = decay**5 * torch.stack(weights[:4]).mean(dim=0)
    expected += (1 - decay) * sum(decay ** (8 - step) * weights[step] for step in range(4, 9))
    average = optimizer.state[parameter][AVERAGE]
    torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)
    assert [(p is parameter, a is average) for p, a in optimizer.averaged()] == [(True, True)]


def test_parameter_without_gradient_has_no_average() -> None:
    parameter, unused = make_parameter(), make_parameter()
    optimizer = make_optimizer(parameter, unused, average=0.9)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [p is parameter for p, _ in optimizer.averaged()] == [True]
