"""Judge a checkpoint: ``python evaluate.py --checkpoint CKPT --data SHARDS [SHARDS ...] --out DIR``.

With ``--config YAML [YAML ...]`` instead of a checkpoint it judges the pretrained weights that these files name.

Writes ``predictions.jsonl``, ``report.json``, ``report.md`` and ``accuracy_by_length.png``. Predictions are appended
batch by batch; the same command goes on where a stopped one was, and asks no question twice. Runs on one device.

Two parts that know nothing of each other meet here: the reader, which turns shards into predictions, and the scorer
(``lightning_modules.report``), which turns predictions into a report. A benchmark is another pair of them.
"""

import argparse
import copy
import hashlib
import json
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from command_errors import run_and_exit
from components.weights.exported_weights import open_weights
from datamodules.batch import Batch, collate
from datamodules.instruction import InstructionDataModule
from datamodules.loading import LateLoader
from datamodules.shard_reader import ShardReader, open_shards
from datamodules.worker_signals import outlive_signals
from lightning_modules.checkpoints.settings import warn_of_other_settings
from lightning_modules.command_line import VideoLanguageCLI
from lightning_modules.console.untrained import untrained_parts, warning_of
from lightning_modules.loading import load_weights, read_config, stored_config
from lightning_modules.predictions import Prediction, PredictionWriter, read_predictions, to_json_lines
from lightning_modules.report import build_report, to_markdown, write_report
from lightning_modules.run_lock import RunLock
from lightning_modules.start_check import check_settings
from lightning_modules.video_language import VideoLanguageModule


def build(
    run: dict[str, Any], predictions: Path, batch_size: int | None, max_new_tokens: int | None
) -> VideoLanguageCLI:
    """Build trainer, model and data settings of a run, to predict on one device.

    Args:
        run: The run's config.
        predictions: File that answers are appended to.
        batch_size: Samples at once; as in the run's validation by default.
        max_new_tokens: Longest answer; as in the run by default.

    Returns:
        The command-line object, nothing run yet.

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
    trainer = run.get("trainer") or {}
    device = {key: trainer[key] for key in ("accelerator", "precision") if trainer.get(key) is not None}
    quiet = {"logger": False, "enable_model_summary": False}
    return VideoLanguageCLI(
        VideoLanguageModule,
        InstructionDataModule,
        args={
            "seed_everything": run.get("seed_everything", 0),
            "num_threads": run.get("num_threads"),
            "model": model,
            "data": data,
            "trainer": {**device, "devices": 1, **quiet},
        },
        run=False,
        save_config_callback=None,
        trainer_defaults={"callbacks": PredictionWriter(str(predictions), append=True)},
    )


def begin(out: Path, about: dict[str, Any], restart: bool) -> list[Prediction]:
    """Begin an evaluation or take one up again.

    Args:
        out: Its folder.
        about: What is evaluated; kept in the folder, so that answers of different evaluations do not mix.
        restart: Forget what the folder holds.

    Returns:
        The predictions that stand already.

    Raises:
        ValueError: The folder belongs to an evaluation of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    predictions, evaluation = out / "predictions.jsonl", out / "evaluation.json"
    if restart:
        predictions.unlink(missing_ok=True)
        evaluation.unlink(missing_ok=True)
    if not predictions.exists() or not predictions.stat().st_size:
        evaluation.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return []
    earlier = json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.exists() else {}
    if earlier != about:
        differing = sorted(key for key in {*earlier, *about} if earlier.get(key) != about.get(key))
        raise ValueError(
            f"{out} holds answers of another evaluation: {', '.join(differing)} differ. Choose another --out, or give "
            "--restart to begin anew"
        )
    return read_predictions(predictions)


def split_answered(reader: ShardReader, predictions: Sequence[Prediction]) -> tuple[list[Prediction], list[int]]:
    """Find out which samples are still to be asked.

    Args:
        reader: The samples.
        predictions: What stands already; of a batch that was cut off while it was written, some may be missing.

    Returns:
        The predictions of the samples whose questions are all answered, and the numbers of the other samples.
    """
    standing: defaultdict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        standing[prediction.key].append(prediction)
    kept: list[Prediction] = []
    remaining = []
    for index in range(len(reader)):
        entry = reader.entry(index)
        answered, needed = standing[entry.key], entry.num_conversations
        if needed and len(answered) >= needed:
            kept += answered[:needed]
            del answered[:needed]  # another shard may have a sample of the same key
        else:
            remaining.append(index)
    return kept, remaining


def make_loader(data: InstructionDataModule, reader: ShardReader, numbers: Sequence[int]) -> "DataLoader[Batch]":
    """Load samples in the given order, as in the run's validation.

    Args:
        data: Settings of the run.
        reader: The samples.
        numbers: Which of them.
    """
    # Lightning cannot know that this sampler leaves nothing out.
    warnings.filterwarnings("ignore", message=".*custom batch sampler `EvaluationBatches` for prediction.*")
    samples: Any = data.dataset(reader, train=False)
    return LateLoader(
        samples,
        batch_sampler=data.evaluation_batches(reader, numbers),
        collate_fn=collate,
        num_workers=data.loading.num_workers,
        worker_init_fn=outlive_signals,
    )


def check_start(cli: VideoLanguageCLI, shards: list[str]) -> None:
    """Build the parts where they are not there yet, and check them against tokenizer and shards.

    Raises:
        ValueError: They do not fit each other.
    """
    cli.model.configure_model()
    cli.datamodule.evaluation_sources["predict"] = {"evaluated": shards}
    check_settings(cli.model.built, "predict", cli.datamodule, cli.model.max_new_tokens)


def predict(cli: VideoLanguageCLI, reader: ShardReader, remaining: Sequence[int]) -> None:
    """Answer the questions of the remaining samples; the trainer's callback writes them."""
    loader = make_loader(cli.datamodule, reader, remaining)
    cli.trainer.predict(cli.model, loader, return_predictions=False)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Ask the questions that are still to be asked, and report on all.

    Args:
        options: What ``_parse`` gives.

    Returns:
        The report.
    """
    weights = None if options.checkpoint is None else open_weights(options.checkpoint)
    run = read_config(options.config) if weights is None or options.config else stored_config(weights.path)
    if weights is not None and options.config:
        warn_of_other_settings(weights.path, run)
    path = options.out / "predictions.jsonl"
    cli = build(run, path, options.batch_size, options.max_new_tokens)
    reader = open_shards(options.data, cli.datamodule.loading.cache)
    about = {
        "checkpoint": weights and str(weights.path.resolve()),
        "checkpoint_changed_ns": weights and weights.path.stat().st_mtime_ns,
        "averaged": options.averaged,
        "config_sha256": hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest(),
        "shards": [shard.fingerprint for shard in reader.shards],
        "max_new_tokens": cli.model.max_new_tokens,
    }
    kept, remaining = split_answered(reader, begin(options.out, about, options.restart))
    _write_whole(path, to_json_lines(kept))
    if remaining:
        untrained = untrained_parts(cli.config.model.as_dict())
        if weights is not None:
            load_weights(cli.model, weights, averaged=options.averaged)
        elif untrained:
            print(warning_of(untrained, "this evaluation", "--checkpoint"), file=sys.stderr)
        check_start(cli, options.data)
        predict(cli, reader, remaining)
    predictions = read_predictions(path)
    num_questions = sum(entry.num_conversations for entry in reader.entries())
    shown = {
        "checkpoint": "none, pretrained weights" if weights is None else str(options.checkpoint),
        "averaged weights": options.averaged,
        "data": options.data,
        "max_new_tokens": cli.model.max_new_tokens,
        "questions left out, because their sample is broken": num_questions - len(predictions),
    }
    report = build_report(predictions, shown)
    write_report(report, options.out)
    print(to_markdown(report))
    return report


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.

    Returns:
        The report.
    """
    options = _parse(args)
    lock = RunLock(options.out)
    lock.take()
    try:
        return evaluate(options)
    except (KeyboardInterrupt, SystemExit) as ending:
        if isinstance(ending.__context__ or ending, KeyboardInterrupt):  # Lightning makes an exit of it
            print(f"\nAnswers so far are in {options.out}; the same command goes on with the others", file=sys.stderr)
        raise
    finally:
        lock.release()


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Judge a checkpoint on shards: accuracy by length and kind.")
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of a run, or its export; none judges what --config names"
    )
    parser.add_argument("--data", nargs="+", required=True, help="shards, folders or glob patterns")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions and report")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        help="the run's config.yaml, in the checkpoint by default; or files to merge",
    )
    parser.add_argument(
        "--averaged", action="store_true", help="take running averages of the weights where the checkpoint has them"
    )
    parser.add_argument("--batch_size", type=int, help="samples at once; as in the run by default")
    parser.add_argument("--max_new_tokens", type=int, help="longest answer; as in the run by default")
    parser.add_argument("--restart", action="store_true", help="ask all questions again")
    options = parser.parse_args(args)
    if options.checkpoint is None and options.config is None:
        parser.error("give --checkpoint, or --config to judge the pretrained weights that it names")
    if options.checkpoint is None and options.averaged:
        parser.error("--averaged needs a --checkpoint that has averages")
    return options


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    run_and_exit(main)
