"""Evaluate a model on shards, on public benchmarks, or compare evaluations.

    python evaluate.py --checkpoint CKPT --data SHARDS [SHARDS ...] --out DIR
    python evaluate.py --model MODEL --benchmark NAME [NAME ...] --data ROOT --out DIR
    python evaluate.py --niavh CONFIG --model MODEL --out DIR
    python evaluate.py compare DIR DIR [DIR ...]

``benchmarks.py``, ``haystack_test.py`` and ``paired_comparison.py`` in ``apps/evaluate`` describe the last three. The
first evaluates a checkpoint on shards.

With ``--config YAML [YAML ...]`` instead of a checkpoint it evaluates the pretrained weights that these files name.

Writes ``predictions.jsonl``, ``report.json``, ``report.md`` and ``accuracy_by_length.png``. Predictions are written
after each batch. The same command continues a stopped evaluation, and asks no question twice. Runs on one device.

A sample that cannot be evaluated (broken media, a conversation that is too long, ...) is skipped: it is listed in
``skipped.jsonl`` and in the report, and counts neither as right nor as wrong. It is tried again once its line is
removed. If too many samples are skipped, the command fails after everything is written.

The code is in ``apps.evaluate``. Nothing imports this file, because another package is also named ``evaluate``.
"""

from apps.evaluate.__main__ import main
from command_errors import run_and_exit

if __name__ == "__main__":
    run_and_exit(main)
