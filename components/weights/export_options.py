"""Options of an export to the names of a published model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from components.weights.conversion import NOTHING_ALLOWED, Allowances

Part = TypeVar("Part", bound=str)
"""Names of the parts that a model has."""


class ExportOptions(NamedTuple, Generic[Part]):
    """Options of an export.

    Attributes:
        parts: Parts to export; by default all that the source has.
        allowed: Our names that may be missing or unknown, such as ``memory.fuser.*``.
        frozen: Folder of imported parts that training started from, for weights that a checkpoint does not store
            because they did not train.
        lora_alpha: ``alpha`` of the run's LoRA settings, if the language model trained adapters.
        dtype: Dtype to cast to. None does not cast; weights with merged adapters are float32.
    """

    parts: Sequence[Part] = ()
    allowed: Allowances = NOTHING_ALLOWED
    frozen: Path | None = None
    lora_alpha: float | None = None
    dtype: str | None = None
