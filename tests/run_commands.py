"""Runs several commands of ``train.py`` one after another, in one process of a group; see ``run_processes``."""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import json
import os
import sys
from pathlib import Path

import torch

import train


def main(commands: str) -> None:
    """Run them and write beside the file what the first process knows after each.

    Args:
        commands: JSON file with a list of argument lists.
    """
    torch.set_num_threads(1)
    file = Path(commands)
    results = []
    for arguments in json.loads(file.read_text()):
        cli = train.main(arguments)
        metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
        results.append({"steps": cli.trainer.global_step, "world_size": cli.trainer.world_size, "metrics": metrics})
    if os.environ.get("RANK", "0") == "0":
        file.with_suffix(".results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
