"""Builds the grid memory of recorded weights, under their original names."""

import re
from typing import Any

from torch import Tensor

from components.bridges.fusers import MlpFuser
from components.bridges.grid_memory import GridMemory
from components.weights.memory_ov_names import TYPE_EMBEDDING, TYPE_ROWS, TYPE_TABLE, memory_names

TRANSFORMER = "recurrent_memory_transformer."
"""What the names of the recurrence begin with in the complete model."""


def memory_of_shapes(state: dict[str, Tensor], *, num_heads: int, **options: Any) -> GridMemory:
    """A grid memory of the sizes that the weights have.

    Args:
        state: Weights under their original names. It has a fuser if they hold one.
        num_heads: Attention heads, which no shape says.
        **options: More arguments of ``GridMemory``.
    """
    num_memory, num_cells, dim = state[f"{TRANSFORMER}initial_memory"].shape
    return GridMemory(
        dim,
        dim,
        num_cells=num_cells,
        num_memory=num_memory,
        depth=num_layers_of(state),
        num_heads=num_heads,
        fuser=MlpFuser if "memory_fuser.0.weight" in state else None,
        **options,
    ).eval()


def load_memory(reader: GridMemory, state: dict[str, Tensor]) -> None:
    """Load weights under their original names, strictly; those of other parts are left out.

    Raises:
        ValueError: The memory of ours has no place for one of them.
    """
    names = memory_names(num_layers_of(state))
    unknown = [name for name in state if name.startswith((TRANSFORMER, "memory_fuser.")) and name not in names]
    if unknown:
        raise ValueError(f"our grid memory has no tensor for {', '.join(unknown)}")
    own = {names[name]: each for name, each in state.items() if name in names}
    if TYPE_TABLE in state:
        own[TYPE_EMBEDDING] = state[TYPE_TABLE][TYPE_ROWS["memory"]]
    reader.load_state_dict(own)


def num_layers_of(state: dict[str, Tensor]) -> int:
    """Layers of the recorded memory."""
    found = (re.match(rf"{re.escape(TRANSFORMER)}layers\.(\d+)\.", name) for name in state)
    return 1 + max(int(match[1]) for match in found if match is not None)


def of_transformer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights ``state.*`` of a recording of the recurrence alone, under their names in the complete model."""
    return {
        TRANSFORMER + name.removeprefix("state."): each for name, each in tensors.items() if name.startswith("state.")
    }
