"""Runs lmms-eval on tasks in given folders. Its own environment starts this: ``python evaluate_tasks.py RUNS OUT``.

Several runs in one process import lmms-eval once, and without its own 1,985 tasks each begins at once.
"""

import json
import sys
from pathlib import Path

from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager


def main() -> None:
    finished = []
    for run in json.loads(Path(sys.argv[1]).read_text()):
        manager = TaskManager("INFO", include_path=run["folders"], include_defaults=False, model_name=run["model"])
        try:
            found = evaluator.simple_evaluate(
                model=run["model"],
                model_args=run["model_args"],
                tasks=run["tasks"],
                task_manager=manager,
                batch_size=run["batch_size"],
                device="cpu",
                log_samples=True,
                repeats=run["repeats"],
                bootstrap_iters=0,
            )
        except SystemExit as ending:
            finished.append({"status": ending.code})
        else:
            assert found is not None
            finished.append({"status": 0, "samples": found["samples"], "results": found["results"]})
    Path(sys.argv[2]).write_text(json.dumps(finished, default=str))


if __name__ == "__main__":
    main()
