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
from components.weights.conversion_parser import ConversionTexts, conversion_parser
from components.weights.export_options import ExportOptions
from components.weights.onevision_export import export_parts
from components.weights.onevision_import import import_parts
from components.weights.onevision_names import PARTS, PartName
from components.weights.onevision_plan import ImportOptions
from components.weights.onevision_settings import VisionFacts

_TEXTS = ConversionTexts(
    "components.weights.llava_onevision",
    __doc__ or "",
    published="published",
    owner="the authors'",
    source="imported folder, or checkpoint of a training run",
    target="a .safetensors file, or a folder for shards and config",
)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = conversion_parser(_TEXTS, PARTS, _add_import_arguments).parse_args(arguments)
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
        exporting = ExportOptions[PartName](given.part, allowed, given.frozen, given.lora_alpha, given.dtype)
        lines = export_parts(given.source, given.checkpoint, exporting)
    print("\n".join(lines))


if __name__ == "__main__":
    run_and_exit(main)
