"""Reads configs that name a class by the path that it had in an earlier version.

Configs of users, runs, checkpoints and exports name classes by their module. ``NEW_CLASS_PATHS`` lists every class that
a config can name and that has moved since. Whoever moves or renames such a class adds a line.
"""

import logging
import re

NEW_CLASS_PATHS = {
    "components.bridges.readouts.CacheAndMemoryReadout": "components.bridges.readouts.memory.CacheAndMemoryReadout",
    "components.bridges.readouts.CacheReadout": "components.bridges.readouts.memory.CacheReadout",
    "components.bridges.readouts.LastSegmentReadout": "components.bridges.readouts.memory.LastSegmentReadout",
    "components.bridges.readouts.MemoryReadout": "components.bridges.readouts.memory.MemoryReadout",
    "components.bridges.retrieved_readout.RetrievedReadout": "components.bridges.readouts.retrieved.RetrievedReadout",
    "components.gather.AllFrames": "components.selection.gather.AllFrames",
    "components.gather.LinspaceFrames": "components.selection.gather.LinspaceFrames",
    "components.gather.PooledFrames": "components.selection.gather.PooledFrames",
    "components.pooling.ConvPooling": "components.pooling.patch_pooling.ConvPooling",
    "components.pooling.WindowPooling": "components.pooling.patch_pooling.WindowPooling",
    "components.segmenters.scene_tiling.SceneTilling": "components.segmenters.scene_tilling.SceneTilling",
    "lightning_modules.predictions.PredictionWriter": "lightning_modules.evaluation.predictions.PredictionWriter",
}
"""Old path -> new path."""

_log = logging.getLogger(__name__)
# No longer path that merely ends or begins like an old one.
_OLD = re.compile(r"(?<![\w./])(?:" + "|".join(map(re.escape, NEW_CLASS_PATHS)) + r")(?![\w.])")
_warned_of: set[str] = set()


def with_new_class_paths(text: str) -> str:
    """Replace the old class paths in a config, and warn once a process of each.

    Args:
        text: A config as YAML or JSON, or an argument of a command line.

    Returns:
        The same text with the new paths.
    """
    found = sorted(set(_OLD.findall(text)) - _warned_of)
    if found:
        _warned_of.update(found)
        moves = "; ".join(f"{old} is now {NEW_CLASS_PATHS[old]}" for old in found)
        _log.warning("a config names classes by old paths, which still work: %s. Write the new paths", moves)
    return _OLD.sub(lambda match: NEW_CLASS_PATHS[match[0]], text)
