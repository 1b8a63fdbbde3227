"""Checks shards before training: ``python -m datamodules.validate SHARDS...``.

It reads every sample's members and JSON, checks that the video mark fits the media, and decodes the media: three frames
of a video, spread over its length. ``--config``, ``--num-frames`` or ``--fps`` decode the frames that training uses,
``--thorough`` all frames. Samples of one source must not share a key, within a shard or across shards.

    python -m datamodules.validate data/train-*.tar s3://bucket/more/ --workers 8 --report report.json

With ``--config``, the config of a training run, media are decoded as the run does, and every conversation is also
encoded with its tokenizer and chat template and compared with its ``max_length``; without named shards, those of the
run are checked:

    python -m datamodules.validate --config run.yaml

It prints counts by source and modality and by kind of problem. It writes the index of every shard: beside a local
shard, or into ``--index-out``, for upload beside a remote one. The exit status is 1 if a shard cannot be read or more
samples are wrong than ``--max-bad-rate`` allows.
"""

import argparse
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from command_errors import run_and_exit
from datamodules.errors import count_of
from datamodules.media.decoding import Decoding
from datamodules.media.frame_sampling import FrameSampling
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_names import find_shards
from datamodules.shards.storage import remote_name
from datamodules.validate.conversation_check import TokenCounts
from datamodules.validate.run_config import RunConfig, read_run_config
from datamodules.validate.shard_check import DUPLICATE_KEY, CheckedShard, Problem, ShardCheck

_SHOWN = 10
_THOROUGH_TIMEOUT_S = 7200.0  # a film of two hours, decoded by one thread


class Findings:
    """Counts and problems of all shards so far."""

    def __init__(self) -> None:
        self.shards = 0
        self.decoded = 0
        self.tokens = TokenCounts()
        self.samples: Counter[tuple[str, str]] = Counter()  # by source and modality
        self.conversations: Counter[tuple[str, str]] = Counter()
        self.problems: Counter[str] = Counter()
        self.unreadable: list[dict[str, str]] = []
        self.wrong: list[dict[str, str]] = []
        self._shard_of_key: dict[tuple[str, str], str] = {}  # source and key -> first shard that has it

    @property
    def num_samples(self) -> int:
        """Samples of all readable shards."""
        return self.samples.total()

    @property
    def bad_rate(self) -> float:
        """Share of wrong samples."""
        return len(self.wrong) / max(1, self.num_samples)

    def add(self, checked: CheckedShard) -> None:
        """Count a shard."""
        self.shards += 1
        if checked.error is not None:
            self.unreadable.append({"shard": checked.shard, "reason": checked.error})
        for sample in checked.samples:
            group = (sample.source, sample.modality)
            self.samples[group] += 1
            self.conversations[group] += sample.num_conversations
            self.decoded += sample.decoded
            self.tokens += sample.tokens
            first = self._shard_of_key.setdefault((sample.source, sample.key), checked.shard)
            problem = sample.problem
            if problem is None and first != checked.shard:
                reason = (
                    f"shard {checked.shard}, key {sample.key!r}: source {sample.source!r} has this key in {first} too; "
                    "give every sample its own"
                )
                problem = Problem(DUPLICATE_KEY, reason)
            if problem is not None:
                self.problems[problem.kind] += 1
                self.wrong.append({"shard": checked.shard, "key": sample.key} | problem._asdict())

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        counts = [
            {"source": source, "modality": modality, "samples": count, "conversations": self.conversations[group]}
            for group, count in sorted(self.samples.items())
            for source, modality in [group]
        ]
        return {
            "shards": self.shards,
            "samples": self.num_samples,
            "decoded": self.decoded,
            "bad_rate": self.bad_rate,
            "counts": counts,
            "tokens": self.tokens._asdict(),
            "problems": dict(self.problems.most_common()),
            "unreadable_shards": self.unreadable,
            "wrong_samples": self.wrong,
        }

    def lines(self) -> Iterator[str]:
        """The report as text, with the first wrong samples. Names from shards are quoted."""
        held = f"{count_of(self.num_samples, 'sample')} in {count_of(self.shards, 'shard')}"
        yield f"{held}, media of {self.decoded} decoded"
        yield f"{'source':<32}{'modality':<12}{'samples':>10}{'conversations':>15}"
        for (source, modality), count in sorted(self.samples.items()):
            yield f"{source!r:<32}{modality:<12}{count:>10}{self.conversations[source, modality]:>15}"
        if self.tokens.total:
            yield (
                f"{self.tokens.total} text tokens, {self.tokens.longest} in the longest conversation; "
                f"{self.tokens.unknown / self.tokens.total:.2%} stand for words that the tokenizer does not know"
            )
        yield f"{count_of(len(self.wrong), 'wrong sample')} ({self.bad_rate:.2%})"
        yield from (f"{kind:<32}{count:>22}" for kind, count in self.problems.most_common())
        yield from (f"  {found['reason']}" for found in self.wrong[:_SHOWN])
        if len(self.wrong) > _SHOWN:
            yield f"  and {len(self.wrong) - _SHOWN} more; --report lists all"
        yield from (f"UNREADABLE {found['reason']}" for found in self.unreadable)


class _Options(NamedTuple):
    shards: list[str]
    check: ShardCheck
    num_workers: int
    max_bad_rate: float
    report: Path | None


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.

    Returns:
        The exit status: 0 if the shards can be used.
    """
    options = _parse(args)
    findings = Findings()
    with tqdm(total=len(options.shards), desc="checking shards", unit="shard") as progress:
        for checked in _check_all(options.shards, options.check, options.num_workers):
            findings.add(checked)
            progress.set_postfix(samples=findings.num_samples, wrong=len(findings.wrong))
            progress.update()
    print("\n".join(findings.lines()))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(findings.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
    return int(bool(findings.unreadable) or findings.bad_rate > options.max_bad_rate)


def _check_all(shards: Sequence[str], check: ShardCheck, num_workers: int) -> Iterator[CheckedShard]:
    if num_workers == 0:
        yield from map(check.run, shards)
        return
    # One thread each: several processes run at the same time, and a fork does not copy threads.
    with ProcessPoolExecutor(
        min(num_workers, len(shards)), multiprocessing.get_context("fork"), torch.set_num_threads, (1,)
    ) as pool:
        yield from pool.map(check.run, shards)


def _parse(args: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(prog="python -m datamodules.validate", description="Check shards.")
    parser.add_argument("shards", nargs="*", help="paths, folders, urls or patterns; without any, those of --config")
    parser.add_argument(
        "--config", action="append", default=[], type=Path, help="config of a training run (more are merged over it)"
    )
    parser.add_argument("--no-decode", action="store_true", help="read no media")
    parser.add_argument("--num-frames", type=int, help="frames decoded of a video (default: --config's, else 3)")
    parser.add_argument("--fps", type=float, help="instead: frames a second")
    parser.add_argument("--max-frames", type=int, help="with --fps: most frames of a video")
    parser.add_argument("--thorough", action="store_true", help="decode every frame of every video once as well")
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the samples whose media is decoded")
    parser.add_argument(
        "--video-backend", choices=("pyav", "decord", "torchcodec"), help="decoder (default: --config's, else pyav)"
    )
    parser.add_argument(
        "--timeout", type=float, help="seconds after which a decoder counts as stuck (--config's or 120; thorough 7200)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0 = none but this one")
    parser.add_argument("--max-bad-rate", type=float, default=0.0, help="part of wrong samples above which it fails")
    parser.add_argument("--report", type=Path, help="JSON file with the counts and every wrong sample")
    parser.add_argument("--index-out", type=Path, help="folder of the indexes, instead of beside the shards")
    parser.add_argument("--cache-folder", help="local copies of remote shards")
    parser.add_argument("--cache-gigabytes", type=float, default=ShardCache.max_gigabytes, help="most that they take")
    known = parser.parse_args(args)
    if not 0 <= known.fraction <= 1 or not 0 <= known.max_bad_rate <= 1 or known.workers < 0:
        parser.error("--fraction and --max-bad-rate must be between 0 and 1, --workers 0 or more")
    try:
        run = read_run_config(known.config) if known.config else None
        sampling = _sampling(known, run)
        named = known.shards or ([] if run is None else run.shards)
        if not named:
            parser.error("name the shards, or a --config whose data section names them")
        shards = find_shards(named)
        if run is not None:
            run.conversations.load()  # here, so that an unusable template gives one message
    except (OSError, ValueError) as error:
        parser.error(str(error))
    twice = [name for name, count in Counter(map(remote_name, shards)).items() if count > 1]
    if known.index_out is not None and twice:
        parser.error(f"several shards are named {twice[0]}, so --index-out would mix up their indexes; use two runs")
    cache = ShardCache(known.cache_folder, known.cache_gigabytes)
    conversations = None if run is None else run.conversations
    check = ShardCheck(
        sampling, known.fraction, _decoding(known, run), known.index_out, cache, known.thorough, conversations
    )
    return _Options(shards, check, known.workers, known.max_bad_rate, known.report)


def _sampling(known: argparse.Namespace, run: RunConfig | None) -> FrameSampling | None:
    if known.no_decode:
        return None
    if known.num_frames is None and known.fps is None:
        sampling = FrameSampling(num_frames=3) if run is None else run.sampling
        return sampling if known.max_frames is None else replace(sampling, max_frames=known.max_frames)
    return FrameSampling(known.num_frames, known.fps, known.max_frames)


def _decoding(known: argparse.Namespace, run: RunConfig | None) -> Decoding:
    decoding = Decoding() if run is None else run.decoding
    timeout_s = max(_THOROUGH_TIMEOUT_S, decoding.timeout_s) if known.thorough else decoding.timeout_s
    return replace(decoding, backend=known.video_backend or decoding.backend, timeout_s=known.timeout or timeout_s)


if __name__ == "__main__":
    run_and_exit(main)
