"""Derives the settings of an evaluation from the config of the run that is evaluated."""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any


def evaluation_settings(
    run: Mapping[str, Any], batch_size: int | None, max_new_tokens: int | None, max_skipped_share: float | None
) -> dict[str, Any]:
    """Settings with which one device answers the questions of an evaluation.

    Args:
        run: The run's config.
        batch_size: Samples in a batch; None = as in the run's validation.
        max_new_tokens: Longest answer in tokens; None = as in the run.
        max_skipped_share: Largest share of the samples that may be skipped; None = as in the run.

    Returns:
        Settings for ``VideoLanguageCLI``. The run's trainer gives accelerator and precision only.

    Raises:
        ValueError: The config lacks a section.
    """
    missing = [section for section in ("model", "data") if not run.get(section)]
    if missing:
        raise ValueError(f"the config has no {' and no '.join(missing)}: give all files that the run was trained with")
    model, data = copy.deepcopy(run["model"]), copy.deepcopy(run["data"])  # the command line changes what it is given
    if max_new_tokens is not None:
        model["max_new_tokens"] = max_new_tokens
    if batch_size is not None:
        data.setdefault("loading", {})["eval_batch_size"] = batch_size
    if max_skipped_share is not None:
        data.setdefault("loading", {}).setdefault("failures", {})["max_skipped_share"] = max_skipped_share
    trainer = run.get("trainer") or {}
    device = {key: trainer[key] for key in ("accelerator", "precision") if trainer.get(key) is not None}
    return {
        "seed_everything": run.get("seed_everything", 0),
        "num_threads": run.get("num_threads"),
        "model": model,
        "data": data,
        "trainer": {**device, "devices": 1, "logger": False, "enable_model_summary": False},
    }


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Hash settings, to notice that an evaluation is continued with others."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
