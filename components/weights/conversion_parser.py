"""What the command lines of all conversions have in common: ``import``, ``export`` and the options of both."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_DTYPES = ("float32", "bfloat16", "float16")


class ConversionTexts(NamedTuple):
    """Words of the help."""

    program: str  # module of the command
    description: str
    published: str  # what the published checkpoint is called
    owner: str  # whose format an export has, such as "the authors'"
    source: str  # what an export reads
    target: str  # what an export writes


def conversion_parser(
    texts: ConversionTexts,
    parts: Iterable[str],
    add_import_arguments: Callable[[argparse.ArgumentParser], None],
) -> argparse.ArgumentParser:
    """The parser of a conversion with the commands ``import`` and ``export``.

    Args:
        texts: Words of the help.
        parts: Parts that the model has.
        add_import_arguments: Adds the arguments of an import.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {texts.program}",
        description=texts.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser(
        "import",
        help=f"{texts.published} checkpoint to this project's format",
        description=f"Import {'an' if texts.published[0] in 'aeiou' else 'a'} {texts.published} checkpoint.",
    )
    add_import_arguments(importing)
    exporting = commands.add_parser(
        "export",
        help=f"trained parts to {texts.owner} format",
        description=f"Export parts under {texts.owner} names.",
    )
    _add_export_arguments(exporting, texts)
    for command in (importing, exporting):
        _add_common_arguments(command, parts)
    return parser


def _add_export_arguments(command: argparse.ArgumentParser, texts: ConversionTexts) -> None:
    command.add_argument("source", type=Path, help=texts.source)
    command.add_argument("checkpoint", type=Path, help=texts.target)
    command.add_argument(
        "--frozen", type=Path, metavar="FOLDER", help="imported folder, for weights that did not train in the run"
    )
    command.add_argument(
        "--lora-alpha", type=float, help="alpha of the run's LoRA settings, if its language model trained adapters"
    )


def _add_common_arguments(command: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    command.add_argument(
        "--part", action="append", default=[], choices=parts, help="only this part; may be given several times"
    )
    command.add_argument(
        "--dtype", choices=_DTYPES, help="cast to this (default: as stored; where LoRA was merged, float32)"
    )
    for problem in ("missing", "unknown"):
        command.add_argument(
            f"--allow-{problem}",
            nargs="+",
            default=[],
            metavar="NAME",
            help=f"tensors that may be {problem}; * matches any text",
        )
