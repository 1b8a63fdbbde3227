"""Converts LLaVA-OneVision and Memory-Augmented VLM checkpoints to this project's format, and trained parts back.

    python -m components.weights.llava_onevision import CHECKPOINT FOLDER
    python -m components.weights.llava_onevision export SOURCE CHECKPOINT

CHECKPOINT is a folder or a file of weights (sharded or not, .safetensors or .bin) in the layout of transformers
(llava-hf) or of the authors. FOLDER gets the files that configs/model/memory_ov_0.5b.yaml reads: the folders
vision_encoder and language_model, projector.safetensors and newline.safetensors; from a Memory-Augmented VLM also
memory.safetensors and frames.safetensors. SOURCE is such a folder, or the checkpoint of a training run; the export has
the authors' names.

Missing and unknown tensors are errors unless they are allowed by name. Code in a file is never executed: only tensors
are unpickled.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from command_errors import run_and_exit
from components.weights.conversion import Allowances
from components.weights.onevision_export import ExportOptions, export_parts
from components.weights.onevision_import import import_parts
from components.weights.onevision_names import PARTS
from components.weights.onevision_plan import ImportOptions
from components.weights.onevision_settings import VisionFacts

_DTYPES = ("float32", "bfloat16", "float16")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components.weights.llava_onevision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser(
        "import", help="published checkpoint to this project's format", description="Import a published checkpoint."
    )
    _add_import_arguments(importing)
    exporting = commands.add_parser(
        "export", help="trained parts to the authors' format", description="Export parts under the authors' names."
    )
    _add_export_arguments(exporting)
    for command in (importing, exporting):
        command.add_argument(
            "--part", action="append", default=[], choices=PARTS, help="only this part; may be given several times"
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
    return parser


def _add_import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path, help="published folder or file")
    command.add_argument("folder", type=Path, help="folder to write to, such as weights/llava_onevision_0.5b")
    command.add_argument("--memory-layers", type=int, help="layers of the memory (default: 2, as published)")
    facts = "; only for the authors' layout, whose config.json does not have it (default: as published for width 1152)"
    command.add_argument("--vision-heads", type=int, help=f"attention heads of the vision tower{facts}")
    command.add_argument("--vision-layers", type=int, help=f"layers of the vision tower, without the last{facts}")
    command.add_argument("--vision-image-size", type=int, help=f"side of a frame in pixels{facts}")
    published = VisionFacts()
    command.add_argument("--vision-activation", default=published.activation, help="default: %(default)s")
    command.add_argument("--vision-norm-eps", type=float, default=published.norm_eps, help="default: %(default)s")


def _add_export_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, help="imported folder, or checkpoint of a training run")
    command.add_argument("checkpoint", type=Path, help="a .safetensors file, or a folder for shards and config")
    command.add_argument(
        "--frozen", type=Path, metavar="FOLDER", help="imported folder, for weights that did not train in the run"
    )
    command.add_argument(
        "--lora-alpha", type=float, help="alpha of the run's LoRA settings, if its language model trained adapters"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = _parser().parse_args(arguments)
    allowed = Allowances(given.allow_missing, given.allow_unknown)
    if given.command == "import":
        facts = VisionFacts(
            given.vision_heads,
            given.vision_image_size,
            given.vision_layers,
            given.vision_activation,
            given.vision_norm_eps,
        )
        importing = ImportOptions(given.part, allowed, given.memory_layers, facts, given.dtype)
        lines = import_parts(given.checkpoint, given.folder, importing)
    else:
        exporting = ExportOptions(given.part, allowed, given.frozen, given.lora_alpha, given.dtype)
        lines = export_parts(given.source, given.checkpoint, exporting)
    print("\n".join(lines))


if __name__ == "__main__":
    run_and_exit(main)
