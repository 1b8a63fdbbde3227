"""What the order of training follows from: kept beside a checkpoint's place, which means nothing without it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from datamodules.order.global_batches import GlobalBatches
from datamodules.order.training_order import TrainingOrder
from datamodules.order.units import IndexArray, SampleTable


def order_facts(
    shards: Sequence[str],
    weights: Sequence[float],
    order: TrainingOrder,
    batches: GlobalBatches,
    samples: SampleTable,
    stated_frames: IndexArray | None,
) -> dict[str, Any]:
    """All that the sequence of global batches follows from, by the name of its setting.

    Args:
        shards: Fingerprints of the shards, in their order.
        weights: Weights of the sources.
        order: What fixes the order.
        batches: The global batches.
        samples: Lengths of the samples.
        stated_frames: Frames that a curriculum goes by; None without one.
    """
    facts = {"shards": _digest("".join(shards).encode()), "sources' weights": list(weights)}
    facts |= {f"order.{name}": value for name, value in asdict(order).items()}
    if stated_frames is not None:
        facts["meta.num_frames of the samples"] = _digest(stated_frames.tobytes())
    if batches.goes_by_lengths:
        lengths = b"".join(column.tobytes() for column in samples)
        facts["lengths of the samples (their meta, sampling, max_length, tokenizer, visual_tokens)"] = _digest(lengths)
    return facts | batches.facts()


def check_facts(kept: Any, current: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint under another order.

    Args:
        kept: What ``order_facts`` gave when the checkpoint was written.
        current: What it gives now.

    Raises:
        ValueError: They differ.
    """
    if kept == current:
        return
    earlier = kept if isinstance(kept, dict) else {}
    names = [name for name in {**earlier, **current} if earlier.get(name) != current.get(name)]
    changes = "; ".join(f"{name}: {_short(earlier.get(name))} -> {_short(current.get(name))}" for name in names)
    raise ValueError(
        "the checkpoint's place in the data means nothing under other data settings: going on would repeat or lose "
        f"samples. Changed: {changes}. Restore them, or start "
        "a new run from the checkpoint's weights: model.initial_weights"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
