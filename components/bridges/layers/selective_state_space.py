"""The selective state space layer of Mamba, with a state that can be carried from segment to segment."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEP_RANGE = (1e-3, 1e-1)  # step sizes when training starts, as published


class ScanState(NamedTuple):
    """What the layer knows of the tokens so far. I is its inner width."""

    inputs: Tensor  # [V, taps - 1, I], the newest inputs of the convolution
    hidden: Tensor  # [V, I, states] float32


class SelectiveStateSpace(nn.Module):
    """Reads tokens one after the other; each channel has a few numbers that fade and take up what is read.

    How much fades and how much is taken up depends on the token. A masked token changes nothing. Parameters have the
    names and the starting values of ``transformers``' ``MambaMixer``, so weights of a Mamba model fit. That class takes
    no state at the start of a sequence of more than one token, which carrying it between segments needs.

    The loop runs over tokens in Python: with hundreds of patches a segment it is slow.

    Args:
        dim: Width of a token.
        state_size: Numbers of each channel.
        expand: Inner width as a multiple of ``dim``.
        taps: Width of the convolution over tokens.

    Attributes:
        inner: Inner width I.

    Source: Mamba (arXiv:2312.00752).
    """

    def __init__(self, dim: int, *, state_size: int = 16, expand: int = 2, taps: int = 4) -> None:
        super().__init__()
        inner = self.inner = expand * dim
        rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, taps, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.sizes = (rank, state_size, state_size)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        shortest, longest = (math.log(each) for each in _STEP_RANGE)
        steps = torch.empty(inner).uniform_(shortest, longest).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps.expm1().log())  # softplus gives the steps

    def _start(self, tokens: Tensor) -> ScanState:
        """State before the first of the tokens ``[V, P, dim]``."""
        inputs = tokens.new_zeros(len(tokens), self.conv1d.kernel_size[0] - 1, self.inner)
        hidden = torch.zeros(len(tokens), self.inner, self.sizes[1], dtype=torch.float32, device=tokens.device)
        return ScanState(inputs, hidden)

    def forward(self, tokens: Tensor, mask: Tensor, state: ScanState | None) -> tuple[Tensor, ScanState]:
        """Read tokens.

        Args:
            tokens: ``[V, P, dim]``.
            mask: ``[V, P]`` bool; real tokens come first.
            state: State before them; None at the start.

        Returns:
            What each token gives, ``[V, P, dim]``, and the state after them.
        """
        state = self._start(tokens) if state is None else state
        entering, gate = self.in_proj(tokens).chunk(2, dim=-1)
        window = torch.cat([state.inputs.to(entering.dtype), entering], dim=1)
        mixed = functional.silu(self.conv1d(window.transpose(1, 2)).transpose(1, 2))  # [V, P, I]
        step, taken_up, shown = self.x_proj(mixed).split(self.sizes, dim=-1)
        step = functional.softplus(self.dt_proj(step).float()) * mask[..., None]
        rates = -self.A_log.float().exp()
        outputs, hidden = _scan(mixed.float(), step, rates, taken_up.float(), shown.float(), state.hidden)
        outputs = (outputs + mixed.float() * self.D.float()).to(mixed.dtype) * functional.silu(gate)
        newest = mask.sum(dim=1, keepdim=True) + torch.arange(state.inputs.shape[1], device=mask.device)
        inputs = window.gather(1, newest[..., None].expand_as(state.inputs))
        return self.out_proj(outputs), ScanState(inputs, hidden)


def _scan(
    inputs: Tensor, step: Tensor, rates: Tensor, taken_up: Tensor, shown: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence ``h = exp(step * rate) h + step * taken_up * input``, read as ``shown . h`` after every token.

    Args:
        inputs: ``[V, P, I]``.
        step: 0 where nothing changes, ``[V, P, I]``.
        rates: ``[I, states]``.
        taken_up: ``[V, P, states]``.
        shown: ``[V, P, states]``.
        hidden: h before the first token, ``[V, I, states]``.

    Returns:
        What is read, ``[V, P, I]``, and h after the last token.
    """
    kept = (step[..., None] * rates).exp()
    written = (step * inputs)[..., None] * taken_up[:, :, None]
    outputs = []
    for keep, write, show in zip(kept.unbind(1), written.unbind(1), shown.unbind(1), strict=True):
        hidden = keep * hidden + write
        outputs.append((hidden * show[:, None]).sum(dim=-1))
    return torch.stack(outputs, dim=1), hidden
