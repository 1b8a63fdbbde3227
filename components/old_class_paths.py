"""Reads configs that name a class by the path that it had in an earlier version.

Configs of users, runs, checkpoints and exports name classes by their module. The table below lists every class that a
config can name and whose module has changed. Whoever moves such a class adds a row.
"""

import logging
import re

_MOVED = (  # old module, new module, classes
    ("components.bridges.readouts", "components.bridges.readouts.cache", "CacheReadout"),
    ("components.bridges.readouts", "components.bridges.readouts.cache_and_memory", "CacheAndMemoryReadout"),
    ("components.bridges.readouts", "components.bridges.readouts.last_segment", "LastSegmentReadout"),
    ("components.bridges.readouts", "components.bridges.readouts.memory", "MemoryReadout"),
    ("components.bridges.retrieved_readout", "components.bridges.readouts.retrieved", "RetrievedReadout"),
    ("components.bridges.videollamb", "components.bridges.videollamb_bridge", "VideoLLaMBBridge"),
    ("components.gather", "components.selection.all_frames", "AllFrames"),
    ("components.gather", "components.selection.linspace_frames", "LinspaceFrames"),
    ("components.gather", "components.selection.pooled_frames", "PooledFrames"),
    ("components.language.pretrained", "components.language.model_loading", "LoraSettings"),
    ("components.pooling", "components.pooling.patch_pooling", "ConvPooling WindowPooling"),
    ("components.segmenters.scene_tiling", "components.segmenters.scene_tilling", "SceneTilling"),
    ("lightning_modules.predictions", "lightning_modules.evaluation.predictions", "PredictionWriter"),
)
NEW_CLASS_PATHS = {f"{old}.{name}": f"{new}.{name}" for old, new, names in _MOVED for name in names.split()}
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
