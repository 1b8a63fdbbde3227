"""The optimizer: AdamW that can leave out groups and whole steps, and keeps averages of the weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

AVERAGE = "average"
"""Name of the optimizer state that holds a parameter's average."""


class PartwiseAdamW(AdamW):
    """AdamW over groups that may begin to train late, with averages of the weights beside the moments.

    - A group whose rate is zero is left alone: no update, no decay, no moments (they take memory from its first step
      on, not before).
    - A group with an ``average_decay`` keeps the state ``average``: float32, as large as the parameter, so it is
      sharded, moved and saved as the moments are. In the parameter's t-th update it moves towards the new weights by
      ``max(1 - average_decay, 1 / t)``: it is the plain mean of all weights so far, until an exponential average with
      that decay would forget faster, and the starting weights are never in it.
    - With ``skips`` set, a step does nothing at all.

    DeepSpeed's ZeRO calls ``step`` inside its engine, once for every group, with flat partitions as parameters.

    Args:
        groups: Parameter groups with ``name``, ``params``, ``lr``, ``weight_decay`` and ``average_decay`` (or None).
        betas: Moment factors.

    Attributes:
        skips: Whether the next steps are left out.
        num_updates: Calls of ``step`` that were not left out.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas)
        self.skips = False
        self.num_updates = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the groups that train, unless the step is left out.

        Args:
            closure: Runs first, with gradients; it may set ``skips``.

        Returns:
            What the closure gave.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        if self.skips:
            return result
        self.num_updates += 1
        groups = self.param_groups
        self.param_groups = [group for group in groups if group["lr"] > 0]
        try:
            super().step()
            for group in self.param_groups:
                if group["average_decay"] is not None:
                    self._average(group["params"], group["average_decay"])
        finally:
            self.param_groups = groups
        return result

    def averaged(self) -> list[tuple[Tensor, Tensor]]:
        """Every parameter that has an average so far, and the average."""
        parameters = (p for group in self.param_groups for p in group["params"])
        return [(p, self.state[p][AVERAGE]) for p in parameters if AVERAGE in self.state.get(p, {})]

    def _average(self, parameters: Iterable[Tensor], decay: float) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            weights = parameter.detach().float()
            if AVERAGE not in state:
                state[AVERAGE] = weights.clone()
            else:
                # The step counter lies on the CPU (only fused and capturable kernels move it), so reading it is free.
                state[AVERAGE].lerp_(weights, max(1.0 - decay, 1.0 / float(state["step"])))
