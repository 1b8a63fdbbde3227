"""Determines the shards on which a run is evaluated after training."""

from collections.abc import Mapping
from typing import Any


def evaluated_shards(asked: bool | list[str], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Find the shards that ``evaluate.py`` is called with after each run.

    Args:
        asked: A list of shards; True for the run's validation sets, False for no evaluation.
        settings: Settings of each run, by name.

    Returns:
        Shards of each run, by name; empty without an evaluation.

    Raises:
        ValueError: A run has no validation set, or its checkpoints are not in its run folder.
    """
    if not asked:
        return {}
    found = {}
    for name, run in settings.items():
        who = name or "the run"
        if run.checkpoint.folder is not None:
            raise ValueError(
                f"--evaluate-after takes the checkpoint from the run folder, but checkpoint.folder of {who} is "
                f"{run.checkpoint.folder}; leave that setting out"
            )
        sets = [] if run.data.validation is None else list(run.data.validation.values())
        of_run = [shards for each in sets for shards in ([each] if isinstance(each, str) else each)]
        found[name] = asked if isinstance(asked, list) else of_run
        if not found[name]:
            raise ValueError(
                f"--evaluate-after true takes data.validation, and {who} has none: give a list of shards instead"
            )
    return found
