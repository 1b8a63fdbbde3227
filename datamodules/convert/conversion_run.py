"""Runs a conversion: stores all rows in a plan, then writes its samples to shards.

One process writes shards, in the order of the plan; worker processes check and reencode media before it needs them. A
shard's bytes depend only on the plan and the media. So a stopped run continues after the last complete shard, and
writes what an uninterrupted run writes.
"""

import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.convert.conversion_report import Report, write_conversion_report
from datamodules.convert.conversion_settings import Conversion
from datamodules.convert.media_paths import checked_path, without_prefix
from datamodules.convert.plan import Plan
from datamodules.convert.planned_samples import PlannedSample, Progress, SampleIdentity
from datamodules.convert.prepare_media import MediaJob, Preparation, PreparedMedia
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem, unforeseen
from datamodules.convert.rows import conversation_json
from datamodules.convert.sources import Annotation
from datamodules.convert.workers import Outcome, prepare_all
from datamodules.errors import SampleError
from datamodules.shards.schema import MediumFacts
from datamodules.shards.shard_writer import ShardWriter

_MOST_NAMES = 1000  # of unread fields, counted separately: hostile rows may have any number
_SHARD_NUMBER = "[0-9][0-9][0-9][0-9][0-9][0-9].tar"


def convert(conversion: Conversion, restart: bool = False) -> Report:
    """Convert, or continue the same conversion after a stop.

    Args:
        conversion: What to convert.
        restart: Whether to remove an earlier conversion of this name first.

    Returns:
        What was written and what was left out; it is stored beside the shards too.

    Raises:
        ConversionError: An annotation file cannot be read, or the folder holds something else under this name.
    """
    conversion.out.mkdir(parents=True, exist_ok=True)
    settings = conversion.settings()
    with Plan(conversion.out / f".{conversion.stem}.plan.sqlite", settings, restart) as plan:
        if restart:
            for path in conversion.out.glob(f"{conversion.stem}-{_SHARD_NUMBER}*"):
                path.unlink()  # its index too
        if not plan.is_filled:
            _refuse_other_shards(conversion)
            _fill(plan, conversion)
        if plan.progress().finished:
            print(
                "This conversion was finished before; nothing is done, and this is its report. To convert again, for "
                "example with media that were missing, give --restart: it removes "
                f"{conversion.out / conversion.stem}-*.tar.",
                file=sys.stderr,
            )
        else:
            _write_shards(plan, conversion)
        return write_conversion_report(plan, conversion.out, conversion.stem)


def _fill(plan: Plan, conversion: Conversion) -> None:
    number_of_folders: dict[tuple[str, ...], int] = {(): -1}
    for annotation in conversion.annotations:
        number_of_folders.setdefault(annotation.folders, len(number_of_folders) - 1)
    num_bytes = sum(one.path.stat().st_size * (2 if one.sampling.needs_count else 1) for one in conversion.annotations)
    unread: Counter[str] = Counter()
    plan.start_filling()
    with tqdm(total=num_bytes, desc="reading rows", unit="B", unit_scale=True, disable=None) as bar:
        for number, annotation in enumerate(conversion.annotations):
            num_rows = 0
            for row, item in _chosen_rows(annotation, bar.update):
                num_rows += _add_row(plan, conversion, annotation, (number, row), item, number_of_folders, unread)
            plan.add_annotation(number, annotation.label, num_rows)
    plan.end_filling(unread)


def _chosen_rows(annotation: Annotation, advance: Callable[[int], object]) -> Iterator[tuple[int, Any]]:
    sampling = annotation.sampling
    num_rows = sum(1 for _ in annotation.read_items(annotation.path, advance)) if sampling.needs_count else None
    chosen = sampling.choose(num_rows)
    for number, item in enumerate(annotation.read_items(annotation.path, advance)):
        if isinstance(chosen, range) and number >= chosen.stop:
            break
        if number in chosen:
            yield number, item


def _add_row(
    plan: Plan,
    conversion: Conversion,
    annotation: Annotation,
    position: tuple[int, int],
    item: Any,
    number_of_folders: dict[tuple[str, ...], int],
    unread: Counter[str],
) -> bool:
    """Store a row in the plan, or why it is left out; returns whether it belongs to this part."""
    part = conversion.part
    name = f"{annotation.label}#{position[1]}"
    identity = SampleIdentity((), (), name)
    try:
        if isinstance(item, RowProblem):
            raise item
        row = annotation.read_row(item)
        if row.media:
            paths = [checked_path(without_prefix(medium.path, conversion.stripped)) for medium in row.media]
            media = tuple(medium._replace(path=path) for medium, path in zip(row.media, paths, strict=True))
            row = row._replace(media=media)
            identity = SampleIdentity(media, annotation.folders)
        digest = identity.digest(number_of_folders)
        if not part.holds(digest):
            return False
        conversation = conversation_json(row, name, annotation.category)
        source = annotation.source(row.media[0].path if row.media else None)
    except Exception as error:
        if not part.holds(identity.digest(number_of_folders)):
            return False
        plan.leave_out_row(position, error if isinstance(error, RowProblem) else unforeseen(f"row {name}", error))
    else:
        plan.add_row(identity, digest, source, position, conversation)
        unread.update(name if name in unread or len(unread) < _MOST_NAMES else "others" for name in row.unread)
    return True


def _write_shards(plan: Plan, conversion: Conversion) -> None:
    progress = plan.progress()
    _remove_leftovers(conversion)
    preparation = Preparation(
        conversion.probe, conversion.reencoding, conversion.out / f".{conversion.stem}.{os.getpid()}.scratch"
    )
    preparation.scratch.mkdir()
    writer = ShardWriter(
        conversion.out / conversion.stem,
        max_samples=conversion.max_samples,
        max_bytes=conversion.max_bytes,
        first_number=progress.num_shards,
    )
    num_samples = progress.num_samples
    samples, ahead = itertools.tee(plan.samples(progress.next_sample, progress.next_piece))
    outcomes = prepare_all(_media_jobs(ahead), preparation, conversion.num_workers)
    plan.start_writing()
    bar = tqdm(total=plan.num_samples, initial=progress.next_sample - 1, desc="writing", unit=" samples", disable=None)
    with writer, bar:
        for sample in samples:
            media = list(itertools.islice(outcomes, max(1, len(sample.media))))
            num_shards = writer.next_number
            problem = _store(writer, sample, media)
            if writer.next_number > num_shards:  # the shards before this sample are complete
                plan.store_progress(Progress(sample.number, writer.next_number, num_samples, next_piece=sample.piece))
            if problem is None:
                num_samples += 1
            else:
                plan.leave_out_sample(sample, problem)
            bar.update(sample.piece == 0)
    plan.store_progress(Progress(plan.num_samples + 1, writer.next_number, num_samples, finished=True))
    shutil.rmtree(preparation.scratch)


def _media_jobs(samples: Iterable[PlannedSample]) -> Iterator[MediaJob | None]:
    """A job for every medium; None for a sample of text, so that not too many samples are read ahead."""
    numbers = itertools.count()
    for sample in samples:
        if not sample.media:
            yield None
        for medium in sample.media:
            yield MediaJob(
                next(numbers),
                medium.path,
                sample.folders,
                medium.start_ms,
                medium.end_ms,
                medium.named_as,
                medium.frame_interval_ms,
            )


def _store(writer: ShardWriter, sample: PlannedSample, outcomes: Sequence[Outcome | None]) -> RowProblem | None:
    """Write a sample; returns why it could not be written, or None."""
    prepared = [outcome for outcome in outcomes if isinstance(outcome, PreparedMedia)]
    problems = [outcome for outcome in outcomes if isinstance(outcome, RowProblem)]
    problems += [problem for medium in prepared if (problem := _unreadable(medium.path)) is not None]
    if not problems:
        try:
            _write(writer, sample, prepared)
        except SampleError as error:
            problems = [RowProblem(Reason.MALFORMED, str(error))]
    for medium in prepared:
        if medium.is_scratch:
            medium.path.unlink(missing_ok=True)
    return problems[0] if problems else None


def _write(writer: ShardWriter, sample: PlannedSample, prepared: Sequence[PreparedMedia]) -> None:
    facts = [
        MediumFacts(
            None if file.is_cut else medium.start_ms,
            None if file.is_cut else medium.end_ms,
            {"media": medium.path, **file.meta},
        ).to_json()
        for medium, file in zip(sample.media, prepared, strict=True)
    ]
    files = [(file.path, file.ending) for file in prepared]
    start, end = {"source": sample.source}, {"conversations": sample.conversations}
    if not files:
        writer.write(sample.key, {**start, "meta": {}, **end})
    elif len(files) == 1:
        writer.write(sample.key, {**start, **facts[0], **end}, *files[0])
    else:
        writer.write_several(sample.key, {**start, "media": facts, **end}, files)


def _unreadable(path: Path) -> RowProblem | None:
    """Why a file cannot be read any more after it was prepared, or None."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return RowProblem(Reason.MISSING, f"{path} cannot be read any more ({error.strerror}); is its disk there?")


def _refuse_other_shards(conversion: Conversion) -> None:
    others = sorted(conversion.out.glob(f"{conversion.stem}-{_SHARD_NUMBER}"))
    if others:
        raise ConversionError(
            f"{others[0]} exists and is not from a conversion that could continue; give another OUT or --name, or "
            "--restart to remove the old shards"
        )


def _remove_leftovers(conversion: Conversion) -> None:
    """Remove what a killed run of this conversion was writing."""
    for path in conversion.out.glob(f".{conversion.stem}-{_SHARD_NUMBER}.*.writing"):
        path.unlink()
    for path in conversion.out.glob(f".{conversion.stem}.*.scratch"):
        shutil.rmtree(path)
