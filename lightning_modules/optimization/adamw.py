"""The optimizer: AdamW that can skip parameter groups and steps, and stores averages of the weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

AVERAGE = "average"
"""Name of the optimizer state that holds a parameter's average."""


class PartwiseAdamW(AdamW):
    """AdamW whose groups may begin to train later, and which can average the weights.

    - A group with learning rate zero is skipped: no update, no weight decay, and no moments in memory before its first
      step.
    - A group with an ``average_decay`` has one more state, ``average``: float32, of the parameter's shape, and thus
      sharded, moved and saved like the moments. In the t-th update it moves towards the new weights by
      ``max(1 - average_decay, 1 / t)``. It is thus the mean of all weights so far, and later an exponential average;
      the initial weights are not in it.
    - With ``skips`` set, ``step`` does nothing.

    DeepSpeed's ZeRO calls ``step`` inside its engine, once for every group, with flat partitions as parameters.

    Args:
        groups: Parameter groups with ``name``, ``params``, ``lr``, ``weight_decay`` and ``average_decay`` (or None).
        betas: Decay rates of the two moments.

    Attributes:
        skips: Whether the next steps are skipped.
        num_updates: Calls of ``step`` that were not skipped.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas)
        self.skips = False
        self.num_updates = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the groups that train, unless the step is skipped.

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
                # The step counter is on the CPU (only fused and capturable kernels move it), so reading it is free.
                state[AVERAGE].lerp_(weights, max(1.0 - decay, 1.0 / float(state["step"])))
