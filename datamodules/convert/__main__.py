r"""Converts other projects' instruction data into shards.

    python -m datamodules.convert pllava magic_jsons OUT --media-root video/vqa/ego_qa=ego4d --media-root videos
    python -m datamodules.convert llava llava_v1_5_mix665k.json OUT --media-root images
    python -m datamodules.convert videollamb llava_pllava_filter.json OUT --media-root media
    python -m datamodules.convert llava-video LLaVA-Video-178K OUT --workers 8 --reencode 224,32
    python -m datamodules.convert mixture mixture.yaml OUT --media-root videos --seed 0
    python -m datamodules.convert mixture configs/data/llava_video_178k_short.yaml OUT --annotation-root SET
    python -m datamodules.convert webdataset 'sets/train-{000000..000012}.tar' OUT

Rows about the same part of the same video become one sample with one conversation per row. Samples are in the order in
which the annotations first name their videos; training shuffles them. Beside the shards ``OUT/NAME-000000.tar`` it
writes ``NAME.report.json`` (counts), ``NAME.left_out.jsonl`` (every row that was left out, and why) and a hidden plan
file.

- A row that cannot be used is left out, counted and listed. The exit status is 1 if more than ``--max-missing-rate`` of
  the rows are left out; the shards can be used all the same. A damaged JSON list stops the conversion before anything
  is written (status 2). Status 70 is an error in this program.
- No single row or media file stops a conversion. An unexpected error is listed with its type and message.
- After a stop or kill, the same command continues. Until the end, the plan file takes about as much space as the
  annotations. ``--restart`` removes what an earlier conversion wrote and converts again.
- ``--part i/n`` converts one of n disjoint parts, for array jobs. Their shards have different names, so training reads
  them together (``OUT`` or ``OUT/*.tar``).
- Media that a row names together become the numbered members of one sample, in the order of their marks in the text.
- ``meta`` of a sample, or of each of its several media: ``media`` (its path in the annotation) and, with ``--probe``,
  ``width`` and ``height`` and, of videos, ``duration_ms``, the length of the part that the row names (``start_ms`` to
  ``end_ms``).
- The format of a file follows from its bytes, not its name. Pictures of other formats become PNG. Animated pictures
  that a row names in ``video`` become videos.
- ``@FILE`` reads arguments from a file, one per line: the 30 media roots of PLLaVA's sets, for instance.
"""

import argparse
import io
import os
import re
import sqlite3
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from command_errors import run_and_exit
from datamodules.convert.conversion_run import convert
from datamodules.convert.conversion_settings import Conversion, Part
from datamodules.convert.reencode_video import Reencoding
from datamodules.convert.row_problems import ConversionError
from datamodules.convert.sources import SOURCES, MediaRoots, mixture

TOO_MANY_LEFT_OUT = 1
CANNOT_BE_DONE = 2
"""Exit statuses other than 0. Shards can be used after 0 and 1 only; an error in the program gives 70."""

_GIGABYTE = 10**9


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments; None = those of the process.

    Returns:
        Exit status: 0, or 1 where more rows than allowed were left out, or 2 where the conversion cannot be done.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not fail on a file's name
    options = _parser().parse_args(args)
    try:
        conversion = _conversion(options)
        report = convert(conversion, options.restart)
    except (ConversionError, OSError, sqlite3.OperationalError) as error:  # the last two: OUT's disk
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_BE_DONE
    print(report.table())
    if report.missing_rate > options.max_missing_rate:
        state = "the shards are complete" if report.num_samples else "no row could be used"
        print(
            f"error: {report.missing_rate:.2%} of the rows were left out, --max-missing-rate allows "
            f"{options.max_missing_rate:.2%}; {state}, the reasons are in {report.listed_in}",
            file=sys.stderr,
        )
        return TOO_MANY_LEFT_OUT
    return 0


def _conversion(options: argparse.Namespace) -> Conversion:
    name = options.name or options.source
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ConversionError(f"--name {name!r}: expected letters, digits, '-' and '_'; it starts the shards' names")
    roots = MediaRoots.parse(options.media_root)
    list_annotations = SOURCES[options.source]
    if options.source == "mixture":
        list_annotations = partial(mixture, annotation_root=options.annotation_root)
    annotations = list_annotations(options.inputs, roots, options.seed)
    if any(annotation.is_tar for annotation in annotations) and (options.media_root or options.strip_prefix):
        raise ConversionError("--media-root and --strip-prefix say where media are, but tars hold them; leave both out")
    roots.check_labels([annotation.label for annotation in annotations])
    return Conversion(
        annotations=annotations,
        out=options.out,
        name=name,
        part=Part.parse(options.part),
        probe=options.probe,
        reencoding=None if options.reencode is None else Reencoding.parse(options.reencode),
        max_samples=options.max_samples,
        max_bytes=round(options.max_gigabytes * _GIGABYTE),
        num_workers=options.workers,
        stripped=tuple(options.strip_prefix),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.convert", description="Convert instruction data into shards.", allow_abbrev=False
    )
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for source, list_annotations in SOURCES.items():
        about = (list_annotations.__doc__ or "").strip()
        command = sources.add_parser(
            source, help=about, description=about, fromfile_prefix_chars="@", allow_abbrev=False
        )
        command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="annotation files or folders")
        command.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
        _add_options(command)
        if source == "mixture":
            command.add_argument(
                "--annotation-root",
                type=Path,
                metavar="DIR",
                help="folder that every json_path is below; default: the YAML's folder",
            )
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--media-root",
        action="append",
        default=[],
        metavar="[LABEL=]DIR",
        help="folder of media; with LABEL only for the annotations below it; several are tried in turn; default: "
        "the annotations' own folder",
    )
    add(
        "--strip-prefix",
        action="append",
        default=[],
        metavar="FOLDER",
        help="removed from the start of media paths, such as /data/; the rest is a path below a media root",
    )
    add("--restart", action="store_true", help="remove an earlier conversion of this name from OUT first")
    add("--name", help="start of the shards' names; default: the source's name")
    add("--part", default="1/1", metavar="I/N", help="convert the I-th of N disjoint parts")
    add("--workers", type=_number(int, 0), default=min(4, os.cpu_count() or 1), help="processes that open media")
    add(
        "--probe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open media to check and measure them (--reencode always does)",
    )
    add("--reencode", metavar="SIZE[,KEYINT]", help="store clips with this shorter side and keyframe interval")
    add("--max-missing-rate", type=_number(float, 0), default=0.0, help="share of the rows that may be left out")
    add("--max-samples", type=_number(int, 1), default=10_000, help="most samples in a shard")
    add("--max-gigabytes", type=_number(float, 1e-9), default=1.0, help="a shard that has reached this size is closed")
    add("--seed", type=int, default=0, help="seed of random:N in a mixture")


def _number(kind: type[int] | type[float], least: float) -> "type[int] | type[float]":
    def parse(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise ValueError(text)
        return value

    parse.__name__ = f"{kind.__name__} of at least {least:g}"
    return parse  # type: ignore[return-value]


if __name__ == "__main__":
    run_and_exit(main)
