"""Answers the questions of shards, and continues where a stopped evaluation ended; ``evaluate.py --data``.

``lightning_modules.evaluation`` scores the answers and makes the report; it reads no shards.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from components.checkpoints.atomic_folder import write_atomically
from components.checkpoints.exported_weights import open_weights
from components.checkpoints.run_checkpoint import CONFIG
from components.checkpoints.settings_check import warn_of_other_settings
from datamodules.batch import Batch
from datamodules.errors import ModelLimitError, SampleError, TooManySkippedError
from datamodules.failures import SkippedSamples
from datamodules.instruction import InstructionDataModule
from datamodules.loader import LateLoader, batch_loader
from datamodules.shards.shard_reader import ShardReader, open_shards
from lightning_modules.console.command_line import VideoLanguageCLI
from lightning_modules.console.config_files import read_as_written, read_config
from lightning_modules.console.untrained_parts import untrained_parts, warning_of
from lightning_modules.evaluation.evaluation_settings import evaluation_settings, settings_digest
from lightning_modules.evaluation.predictions import PredictionWriter, read_predictions, to_json_lines
from lightning_modules.evaluation.report import build_report, write_report
from lightning_modules.evaluation.report_page import to_markdown
from lightning_modules.evaluation.resuming import (
    PREDICTIONS,
    SKIPPED,
    begin_evaluation,
    check_turns,
    skipped_questions,
    split_answered,
)
from lightning_modules.sample_errors import SampleLimitError
from lightning_modules.start_check import check_settings
from lightning_modules.trained_model import load_weights, stored_config
from lightning_modules.video_language import VideoLanguageModule

SECTIONS = {"model": VideoLanguageModule, "data": InstructionDataModule}


def build(
    run: dict[str, Any],
    predictions: Path,
    batch_size: int | None,
    max_new_tokens: int | None,
    max_skipped_share: float | None = None,
) -> VideoLanguageCLI:
    """Build trainer, model and data settings of a run, to predict on one device.

    Args:
        run: The run's config.
        predictions: File to which answers are appended.
        batch_size: Samples at once; as in the run's validation by default.
        max_new_tokens: Longest answer; as in the run by default.
        max_skipped_share: Largest part of the samples that may be left out; as in the run by default.

    Returns:
        The command-line object, nothing run yet.

    Raises:
        ValueError: The config lacks a section.
    """
    return VideoLanguageCLI(
        VideoLanguageModule,
        InstructionDataModule,
        args=evaluation_settings(run, batch_size, max_new_tokens, max_skipped_share),
        run=False,
        save_config_callback=None,
        trainer_defaults={"callbacks": PredictionWriter(str(predictions), append=True)},
    )


def make_loader(
    data: InstructionDataModule, reader: ShardReader, numbers: Sequence[int], skipped_file: Path
) -> "DataLoader[Batch]":
    """Load samples in the given order, as in the run's validation.

    Args:
        data: Settings of the run.
        reader: The samples.
        numbers: Their indexes.
        skipped_file: List of the skipped samples.
    """
    # Lightning cannot know that this sampler leaves nothing out.
    warnings.filterwarnings("ignore", message=".*custom batch sampler `EvaluationBatches` for prediction.*")
    samples = data.dataset(reader, train=False, failures=data.loading.failures.for_evaluation(skipped_file))
    return batch_loader(LateLoader, samples, data.evaluation_batches(reader, numbers), data.loading.num_workers)


def check_start(cli: VideoLanguageCLI, shards: list[str]) -> None:
    """Build the parts, and check that they fit tokenizer and shards.

    Raises:
        ValueError: They do not fit each other.
    """
    cli.model.configure_model()
    cli.datamodule.evaluation_sources["predict"] = {"evaluated": shards}
    # A conversation that is too long is skipped later; it does not end the evaluation.
    check_settings(cli.model.built, "predict", cli.datamodule, cli.model.max_new_tokens, long_texts_are_skipped=True)


def predict(
    cli: VideoLanguageCLI, reader: ShardReader, remaining: Sequence[int], path: Path, skipped: SkippedSamples
) -> None:
    """Answer the questions of the remaining samples.

    Args:
        cli: The result of ``build``.
        reader: The samples.
        remaining: Indexes of the samples to ask about.
        path: File to which the trainer's callback writes the answers.
        skipped: List of the samples that cannot be evaluated.

    Raises:
        TooManySkippedError: More samples cannot be evaluated than is allowed.
    """
    most = cli.datamodule.loading.failures.max_skipped_in_a_row
    for _ in range(most + 1):
        try:
            loader = make_loader(cli.datamodule, reader, remaining, skipped.path)
            cli.trainer.predict(cli.model, loader, return_predictions=False)
            return
        except SampleLimitError as error:  # found by the model, so the rest of its batch has no answers either
            number = next(index for index in remaining if reader.entry(index).key == error.key)
            shard, media = reader.shard(number).url, reader.entry(number).made_from
            reason = ModelLimitError(f"{reader.where(number)}: {error.reason}")
            skipped.add(shard, error.key, number, reason, media=media)
            _, remaining = split_answered(reader, read_predictions(path), skipped.lines())
            if not remaining:
                return
    raise TooManySkippedError(
        f"more than {most} samples are beyond what the language model can read, see {skipped.path}; shorten them, or "
        "set data.loading.max_length lower, which leaves them out sooner"
    )


def evaluate_shards(options: argparse.Namespace) -> dict[str, Any]:
    """Ask the questions that have no answer yet, and report on all answers.

    Args:
        options: The command line, see ``apps.evaluate.command``.

    Returns:
        The report.
    """
    weights = None if options.checkpoint is None else open_weights(options.checkpoint)
    run = read_config(options.config, SECTIONS) if weights is None or options.config else stored_config(weights.path)
    if weights is not None and options.config:
        warn_of_other_settings(weights.path, run)
    path, skipped = options.out / PREDICTIONS, SkippedSamples(options.out / SKIPPED)
    cli = build(run, path, options.batch_size, options.max_new_tokens, options.max_skipped_share)
    reader = open_shards(options.data, cli.datamodule.loading.cache)
    about = {
        "checkpoint": weights and str(weights.path.resolve()),
        "checkpoint_changed_ns": weights and weights.path.stat().st_mtime_ns,
        "averaged": options.averaged,
        "config_sha256": settings_digest(run),
        "shards": [shard.fingerprint for shard in reader.shards],
        "max_new_tokens": cli.model.max_new_tokens,
    }
    earlier_form = {"config_sha256": settings_digest(read_as_written(options.config or [weights.path / CONFIG]))}
    earlier = begin_evaluation(options.out, about, options.restart, earlier_form)
    earlier = check_turns(reader, earlier, partial(_num_turns, reader), options.out)
    complete, remaining = split_answered(reader, earlier, skipped.lines())
    write_atomically(path, to_json_lines(complete))
    stopped = None
    if remaining:
        untrained = untrained_parts(cli.config.model.as_dict())
        if weights is not None:
            load_weights(cli.model, weights, averaged=options.averaged)
        elif untrained:
            print(warning_of(untrained, "this evaluation", "--checkpoint"), file=sys.stderr)
        check_start(cli, options.data)
        try:
            predict(cli, reader, remaining, path, skipped)
        except TooManySkippedError as error:  # raised after the report is written
            stopped = error
    shown = {
        "checkpoint": "none, pretrained weights" if weights is None else str(options.checkpoint),
        "averaged weights": options.averaged,
        "data": options.data,
        "max_new_tokens": cli.model.max_new_tokens,
    }
    report = summarise(reader, options.out, shown, skipped)
    if stopped is not None:
        raise stopped
    cli.datamodule.loading.failures.check_share(
        report["skipped"]["by_kind"], len(reader), skipped.path, "--max-skipped-share"
    )
    return report


def summarise(reader: ShardReader, out: Path, shown: dict[str, Any], skipped: SkippedSamples) -> dict[str, Any]:
    """Write and print the report on the answers so far.

    Args:
        reader: The samples.
        out: Folder of the evaluation.
        shown: What was evaluated.
        skipped: The samples that were skipped.

    Returns:
        The report.

    Raises:
        TooManySkippedError: There is no answer, because samples were skipped.
    """
    predictions = read_predictions(out / PREDICTIONS)
    unanswered = skipped_questions(reader, skipped.lines())
    which = unanswered.samples
    if which and not predictions:
        raise TooManySkippedError(
            f"no question was answered: {len(which)} of {len(reader)} samples were left out. {skipped.path} says "
            f"why; the first: {which[0]['reason']}"
        )
    shown = {**shown, "conversations left out, because their sample is broken": unanswered.num_skipped}
    num_answered = sum(prediction.turn == 1 for prediction in predictions)
    unasked = unanswered.num_conversations - unanswered.num_skipped - num_answered
    report = build_report(predictions, shown | ({"conversations not asked yet": unasked} if unasked else {}), which)
    write_report(report, out)
    print(to_markdown(report))
    return report


def _num_turns(reader: ShardReader, index: int) -> list[int]:
    """Questions of every conversation of a sample; none if it cannot be read."""
    try:
        conversations = reader.read(index).record.conversations
    except SampleError:
        return []
    return [sum(turn.role == "assistant" for turn in each.turns) for each in conversations]
