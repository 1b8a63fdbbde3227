"""Chooses which samples of some shards a page shows, from their indexes alone."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from datamodules.errors import SampleError
from datamodules.shards.shard_reader import ShardReader
from datamodules.validate.shard_check import DUPLICATE_KEY, Problem


def choose_samples(reader: ShardReader, number: int) -> list[int]:
    """Choose samples: up to half of them are such that the index knows to be wrong, the others are spread evenly.

    Args:
        reader: The shards.
        number: Most samples.

    Returns:
        Numbers of samples, in order.
    """
    wrong = [index for index, entry in enumerate(reader.entries()) if entry.problem is not None]
    chosen = set(evenly(wrong, (number + 1) // 2))
    others = [index for index in range(len(reader)) if index not in chosen]
    return sorted(chosen | set(evenly(others, number - len(chosen))))


def find_samples(reader: ShardReader, keys: Collection[str]) -> list[int]:
    """Find samples by their keys.

    Raises:
        ValueError: No sample has one of the keys.
    """
    found = defaultdict(list)
    for index, entry in enumerate(reader.entries()):
        if entry.key in keys:
            found[entry.key].append(index)
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"--keys: no sample of these shards has the key {missing[0]!r}; check key and shards")
    return sorted(index for indexes in found.values() for index in indexes)


def evenly(items: list[int], number: int) -> list[int]:
    """Choose so many of the items, at equal distances: the first, the last, and some between them."""
    if len(items) <= number:
        return items
    if number < 2:
        return items[:number]
    return [items[place * (len(items) - 1) // (number - 1)] for place in range(number)]


def duplicate_keys(reader: ShardReader, chosen: Collection[int]) -> Mapping[int, Problem]:
    """Find which of the chosen samples have the key of another sample of their source.

    Args:
        reader: The shards.
        chosen: Numbers of samples.

    Returns:
        Number of a sample -> what is wrong.
    """
    keys = {reader.entry(index).key for index in chosen}
    with_key = defaultdict(list)
    for index, entry in enumerate(reader.entries()):
        if entry.key in keys:
            with_key[entry.key].append(index)
    found = {}
    for index in chosen:
        source = _source(reader, index)
        others = [other for other in with_key[reader.entry(index).key] if other != index]
        other = next((other for other in others if source is not None and _source(reader, other) == source), None)
        if other is not None:
            shard = reader.shard(other).url
            found[index] = Problem(
                DUPLICATE_KEY, f"source {source!r} has this key in {shard} too; give every sample its own"
            )
    return found


def _source(reader: ShardReader, index: int) -> str | None:
    try:
        return reader.read(index).record.source
    except SampleError:
        return None
