"""The gate that decides which segments the memory admits, and how much of each."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_LEAST = 1e-6  # keeps the noise finite
_NO_PATCH = -1e4  # logit of a masked patch; finite, so that its gradient is too


@dataclass(frozen=True)
class SelectiveRecurrence:
    """The numbers of a selective memory: how the gate is sampled and where training starts.

    Args:
        temperature: Of the sampled gate; the lower, the more often it is exactly open or closed.
        stretch: How far the sampled value is stretched beyond 0 and 1 before it is cut off there.
        admit_logit: Outside training a segment is admitted if the gate's logit is above this. 3 is a probability of
            0.95. The threshold is high because even one uneventful segment admitted in fifty would fill the memory of
            a long video.
        first_channel_logit: Logit of the channel gates at the start of training: 1 lets most of an admitted segment
            replace what was in the memory.
        first_carry: Start of the gate by which the memory enters the next segment, before ``tanh``. It starts half
            open, because the memory then holds everything that was admitted.
        capacity: Most segments that stay admitted. When there is one more, the one whose gate was least likely to open
            is not admitted any more; of equal ones the oldest. So the cache of a video that plays for days is
            bounded. None for no limit.

    Raises:
        ValueError: ``temperature`` or ``stretch`` is not positive, or ``capacity`` is below 1.

    Source: temperature and stretch are those of the hard concrete distribution (arXiv:1712.01312).
    """

    temperature: float = 2.0 / 3.0
    stretch: float = 0.1
    admit_logit: float = 3.0
    first_channel_logit: float = 1.0
    first_carry: float = 0.5
    capacity: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.temperature <= 0 or self.stretch <= 0:
            raise ValueError(
                "temperature and stretch of a selective recurrence must be positive, got "
                f"{self.temperature} and {self.stretch}"
            )
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"capacity of a selective recurrence must be at least 1 segment, got {self.capacity}")


class Selection(NamedTuple):
    """The gates' values for one segment."""

    admitted: Tensor  # [V] in 0..1, how much of the segment is admitted; outside training 0 or 1
    gate_probability: Tensor  # [V] in 0..1, chance that the gate opens: what the penalty acts on
    share: Tensor  # [V, M, D] in 0..1, how much of the lasting memory is replaced by what the segment wrote
    logit: Tensor  # [V] float32 of the gate, without gradient; also of a first segment, which is always admitted

    def with_all_admitted(self) -> "Selection":
        """The same with everything admitted at no penalty, for a video's first segment.

        The gates stay in the graph: a parameter that some batch leaves out would stop a run under DDP and ZeRO.
        """
        # The penalty reaches the loss whatever the readout reads.
        gate_probability = 0.0 * (self.gate_probability + self.share.flatten(1).mean(dim=1))
        return Selection(0.0 * self.admitted + 1.0, gate_probability, 0.0 * self.share + 1.0, self.logit)


class SelectiveUpdate(nn.Module):
    """Two gates between a segment and the memory: one for the whole segment, one for every token and channel.

    The segment gate decides whether anything happened that matters. It can close completely: a sigmoid never does, and
    the little that it admits of every uneventful segment adds up over hundreds of them. It is one gate for all
    channels, because of hundreds of gates some are always a little open. The most salient patch can open it alone: an
    average over the segment would hide one patch. The channel gate, an ordinary sigmoid, decides which part of the
    memory changes.

    In training the segment gate is sampled. A normalisation after the gate makes a half-open gate look like an open
    one, so without sampling many logits stay near the threshold and new segments fall on either side by chance.
    Sampling pushes them apart. Outside training the gate is open where its logit is above ``admit_logit``.

    Args:
        dim: Width D.
        settings: The gate's numbers.

    Source: the hard concrete distribution (arXiv:1712.01312).
    """

    def __init__(self, dim: int, settings: SelectiveRecurrence) -> None:
        super().__init__()
        self.settings = settings
        self.compare = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU())
        self.of_memory = nn.Linear(dim, 1)
        last = nn.Linear(dim, 1)
        self.of_patch = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), last)
        self.channel = nn.Linear(dim, dim)
        for layer, bias in ((self.of_memory, 0.0), (last, 0.0), (self.channel, settings.first_channel_logit)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, lasting: Tensor, written: Tensor, patches: Tensor, patch_mask: Tensor) -> Selection:
        """Compare what a segment wrote with the memory before it.

        Args:
            lasting: Memory before the segment, ``[V, M, D]``.
            written: Memory tokens after the segment, ``[V, M, D]``.
            patches: The segment's patch tokens at the bridge's input, ``[V, P, D]``.
            patch_mask: Which of them are real, ``[V, P]`` bool; a video without any admits nothing.
        """
        compared = self.compare(torch.cat([lasting, written], dim=-1))
        salience = self.of_patch(patches).squeeze(2).masked_fill(~patch_mask, _NO_PATCH).amax(dim=1)
        logit = salience + self.of_memory(compared.mean(dim=1)).squeeze(1)
        admitted = self._sample(logit) if self.training else (logit > self.settings.admit_logit).to(logit.dtype)
        share = admitted[:, None, None] * torch.sigmoid(self.channel(compared))
        return Selection(admitted, torch.sigmoid(logit), share, logit.detach().float())

    def _sample(self, logit: Tensor) -> Tensor:
        """Sample the hard concrete distribution: mostly 0 or 1, seldom between, with a gradient to the logit."""
        uniform = torch.rand_like(logit, dtype=torch.float32).clamp(_LEAST, 1.0 - _LEAST)
        concrete = torch.sigmoid((logit + uniform.logit().to(logit.dtype)) / self.settings.temperature)
        stretch = self.settings.stretch
        return (concrete * (1.0 + 2.0 * stretch) - stretch).clamp(0.0, 1.0)


def within_capacity(
    admitted: tuple[Tensor, ...], logits: tuple[Tensor, ...], capacity: int | None
) -> tuple[Tensor, ...]:
    """Take back the admission of the least likely segment of every video that has one more than fits.

    Args:
        admitted: How much of every segment is admitted, one ``[V]`` a segment. Without the newest, no video has more
            than ``capacity``.
        logits: Of the gate at every segment, one ``[V]`` a segment.
        capacity: Most segments that stay admitted; None for no limit.

    Returns:
        The admissions, 0 where one was taken back.
    """
    if capacity is None or len(admitted) <= capacity:
        return admitted
    shares = torch.stack(admitted)  # [S, V]
    is_held = shares > 0
    least = torch.stack(logits).masked_fill(~is_held, torch.inf).argmin(dim=0)  # of equal ones the first
    is_over = is_held.sum(dim=0) > capacity
    segment = torch.arange(len(shares), device=shares.device).unsqueeze(1)
    return shares.masked_fill((segment == least) & is_over, 0.0).unbind()
