"""Everything that fixes the order of training: stored in a checkpoint, because its position in the data needs it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from datamodules.order.draws import IndexArray, SampleTable
from datamodules.order.global_batches import GlobalBatches
from datamodules.order.training_order import TrainingOrder

_EARLIER_NAMES = {"bundle": "group_size", "units of the curriculum's stages": "draws of the curriculum's stages"}
"""What checkpoints of earlier versions have -> its name now."""


def order_facts(
    shards: Sequence[str],
    weights: Sequence[float],
    order: TrainingOrder,
    batches: GlobalBatches,
    samples: SampleTable,
    stated_frames: IndexArray | None,
) -> dict[str, Any]:
    """Everything that fixes the sequence of global batches, by the name of its setting.

    Args:
        shards: Fingerprints of the shards, in their order.
        weights: Weights of the sources.
        order: What fixes the order.
        batches: The global batches.
        samples: Lengths of the samples.
        stated_frames: Frames of the samples, which a curriculum needs; None without one.
    """
    facts = {"shards": _digest("".join(shards).encode()), "sources' weights": list(weights)}
    facts |= {f"order.{name}": value for name, value in asdict(order).items()}
    if stated_frames is not None:
        facts["meta.num_frames of the samples"] = _digest(stated_frames.tobytes())
    if batches.goes_by_lengths:
        lengths = b"".join(column.tobytes() for column in samples)
        facts["lengths of the samples (their meta, sampling, max_length, tokenizer, visual_tokens)"] = _digest(lengths)
    return facts | batches.facts()


def check_facts(stored: Any, current: dict[str, Any]) -> None:
    """Refuse to resume from a checkpoint with another order.

    Args:
        stored: What ``order_facts`` returned when the checkpoint was written.
        current: What it returns now.

    Raises:
        ValueError: They differ.
    """
    earlier = _with_current_names(stored) if isinstance(stored, dict) else {}
    if earlier == current:
        return
    names = [name for name in {**earlier, **current} if earlier.get(name) != current.get(name)]
    changes = "; ".join(f"{name}: {_short(earlier.get(name))} -> {_short(current.get(name))}" for name in names)
    raise ValueError(
        "the checkpoint's position in the data has no meaning with other data settings: resuming would repeat or lose "
        f"samples. Changed: {changes}. Restore them, or start "
        "a new run from the checkpoint's weights: model.initial_weights"
    )


def _with_current_names(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        _EARLIER_NAMES.get(name, name): _with_current_names(value) if isinstance(value, dict) else value
        for name, value in facts.items()
    }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
