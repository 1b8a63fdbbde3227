"""Makes the table from the measurements of all strategies."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.strategies.tensor_bytes import KINDS
from benchmarks.strategies.training import CHECKPOINT, PHASES, Measured
from components.checkpoints.exported_weights import PREFIX
from components.checkpoints.run_checkpoint import RunCheckpoint

_FROZEN = f"{PREFIX}encoder."
_MIB = 2**20


class Outcome(NamedTuple):
    """Measurements of one strategy."""

    ranks: Sequence[Measured]
    checkpoint_bytes: int
    tensor_bytes: Sequence[int]  # in the checkpoint, written by each rank
    frozen_saved: int  # tensors of frozen parts in the checkpoint
    frozen: int  # tensors of frozen parts
    stored: frozenset[str]  # names of the weights in the checkpoint

    @property
    def seconds(self) -> float:
        """Seconds of a step on the slowest rank."""
        return max(rank.seconds for rank in self.ranks)


def read_outcome(folder: Path, name: str, num_ranks: int, stored: frozenset[str]) -> Outcome:
    """Read the measurements of the ranks and the content of their checkpoint.

    Args:
        folder: Folder with their files.
        name: The strategy.
        num_ranks: Its processes.
        stored: Names of the weights in the checkpoint.
    """
    path = folder / CHECKPOINT.format(name)
    checkpoint = RunCheckpoint(path)
    saved = [name.startswith(_FROZEN) for name in checkpoint.parameters].count(True)
    texts = [(folder / f"{name}-{rank}.json").read_text(encoding="utf-8") for rank in range(num_ranks)]
    files = sorted(path.glob("tensors-*.safetensors"))
    return Outcome(
        ranks=[Measured(**json.loads(text)) for text in texts],
        checkpoint_bytes=sum(file.stat().st_size for file in path.iterdir()),
        tensor_bytes=[file.stat().st_size for file in files],
        frozen_saved=saved,
        frozen=saved + len(checkpoint.left_out),
        stored=stored,
    )


def loss_difference(outcome: Outcome, reference: Outcome) -> float:
    """Largest difference of a step's loss on any rank to another run's; NaN if a loss is NaN."""
    differences = [
        abs(mine - wanted)
        for rank in outcome.ranks
        for mine, wanted in zip(rank.losses, reference.ranks[0].losses, strict=True)
    ]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def describe(outcomes: Mapping[str, Outcome], reference: str, pace: str, device: str) -> str:
    """The table. Figures are the largest over the ranks.

    Args:
        outcomes: By strategy.
        reference: The strategy with which losses are compared.
        pace: The strategy whose time of a step counts as 1.
        device: Device of the run; memory on other devices is shown separately.
    """
    head = ["strategy", "processes", *KINDS, "together", *(f"peak {phase}" for phase in PHASES)]
    head += [
        "checkpoint",
        "by each rank",
        "frozen tensors in it",
        "stored tensors",
        "loss difference",
        f"step / {pace}'s",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, outcome in outcomes.items():
        held = [_sum(rank.held[kind] for kind in KINDS) for rank in outcome.ranks]
        cells = [name, str(len(outcome.ranks))]
        cells += [_held([rank.held[kind] for rank in outcome.ranks], device) for kind in KINDS]
        cells.append(_held(held, device))
        cells += [_mib(max(rank.peaks[phase] for rank in outcome.ranks)) for phase in PHASES]
        cells += [_mib(outcome.checkpoint_bytes), " + ".join(map(_mib, outcome.tensor_bytes))]
        cells += [f"{outcome.frozen_saved} of {outcome.frozen}", str(len(outcome.stored))]
        difference = "-" if name == reference else f"{loss_difference(outcome, outcomes[reference]):.1e}"
        cells += [difference, f"{outcome.seconds / outcomes[pace].seconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sum(parts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _held(ranks: Sequence[Mapping[str, int]], device: str) -> str:
    here = max(rank.get(device, 0) for rank in ranks)
    elsewhere = max(sum(rank.values()) - rank.get(device, 0) for rank in ranks)
    return _mib(here) + (f" + {_mib(elsewhere)} host" if elsewhere else "")


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f}"
