"""Writes the model of a checkpoint as a folder: ``python -m lightning_modules.export CKPT OUT``.

OUT holds all that is needed to open the model on any machine, whichever strategy wrote the checkpoint: config, weights,
tokenizer, chat template, frame settings and a model card. ``membridge.load(OUT)`` opens it without a trainer.
"""

import argparse
import json
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from command_errors import run_and_exit
from components.checkpoints.exported_weights import PREFIX, open_weights
from components.checkpoints.restoring import SavedWeights
from components.checkpoints.run_checkpoint import CONFIG
from components.checkpoints.sharded_weights import LARGEST_FILE
from components.model import VideoLanguageModel
from components.pretrained.folder_writing import FrozenWeights, WritingOptions, write_folder
from components.pretrained.model_card import CardFacts
from components.pretrained.model_folder import DtypeName, read_folder_config
from lightning_modules.console.config_files import read_config
from lightning_modules.console.option_spelling import add_option
from lightning_modules.trained_model import load_model
from lightning_modules.video_language import VideoLanguageModule


def export(
    checkpoint: Path,
    out: Path,
    *,
    config: Sequence[Path] | None = None,
    averaged: bool = False,
    frozen: FrozenWeights = "copy",
    dtype: DtypeName | None = None,
    merge_adapters: bool = False,
    card: CardFacts = CardFacts(),  # noqa: B008  frozen
    largest_file: int = LARGEST_FILE,
) -> list[str]:
    """Write the model of a checkpoint as a folder. Needs memory for the model.

    Args:
        checkpoint: A checkpoint of a training run, or an export of an earlier version.
        out: New folder. It appears once it is complete.
        config: Config files of the run, merged in order; by default the config in the checkpoint.
        averaged: Use the running averages of the parameters that have one.
        frozen: ``copy`` stores weights that did not train too; ``reference`` stores where they are.
        dtype: Dtype to cast to; None = as trained.
        merge_adapters: Merge LoRA adapters into the language model.
        card: Title, licence and results for the model card.
        largest_file: Largest size of a file of weights, in bytes.

    Returns:
        Lines that say what was done.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: There is no checkpoint, or a folder that its config names is missing.
        ValueError: The checkpoint is damaged, has no config or no averages, or the folders hold other weights than
            those that it was trained beside.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; choose another folder, or remove it")
    weights = open_weights(checkpoint)
    model = load_model(checkpoint, config=config, averaged=averaged)
    _mark_trained(model, weights)
    step = getattr(weights, "step", None)
    options = WritingOptions(
        frozen=frozen,
        dtype=dtype,
        merge_adapters=merge_adapters,
        largest_file=largest_file,
        card=card,
        run_config=_config_text(weights.path, config),
        about={"checkpoint": weights.path.name, "step": step, "averaged": averaged},
    )
    first, *others = write_folder(model, out, model.training_facts, options)
    return [first if step is None else f"{first}, after step {step}", *others, _how_to_open(out)]


def _how_to_open(out: Path) -> str:
    """The line that says what to do with the folder."""
    if read_folder_config(out).facts.frames.size is None:
        return (
            "this model reads cached features, so it cannot answer about a file. To have that, export again with "
            "--config and the config of the encoder that made the features"
        )
    return f'open it in Python: import membridge; model = membridge.load("{out}"); model.answer("video.mp4", "...")'


def _mark_trained(model: VideoLanguageModel, weights: SavedWeights) -> None:
    """Let only those parameters require gradients that the checkpoint stores: the others are those of their source.

    The config alone does not tell. Learning rates freeze parts too, and a part that is frozen now may have trained in
    an earlier stage.
    """
    stored = weights.parameters
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(PREFIX + name in stored)


def _config_text(folder: Path, config: Sequence[Path] | None) -> str | None:
    """Text of the config for the folder, so that the run's data and trainer settings stay with the model."""
    if config is not None:
        text: str = yaml.safe_dump(read_config(config, {"model": VideoLanguageModule}), sort_keys=False)
        return text
    path = folder / CONFIG
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    given = _parser().parse_args(arguments)
    report = {} if given.results is None else json.loads(given.results.read_text(encoding="utf-8"))
    options: dict[str, Any] = {
        "config": given.config,
        "averaged": given.averaged,
        "frozen": given.frozen,
        "dtype": given.dtype,
        "merge_adapters": given.merge_adapters,
        "card": CardFacts(given.title, given.license, report),
    }
    print("\n".join(export(given.checkpoint, given.out, **options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.export", description=(__doc__ or "").replace("``", "")
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint that training wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        help="the run's config, in the checkpoint by default; or several files, merged in order",
    )
    parser.add_argument("--averaged", action="store_true", help="take running averages of the weights where there are")
    parser.add_argument(
        "--frozen",
        choices=get_args(FrozenWeights),
        default="copy",
        help="copy weights that did not train, or write where they are (default: copy)",
    )
    parser.add_argument("--dtype", choices=get_args(DtypeName), help="cast to this (default: as trained)")
    add_option(parser, "--merge-adapters", action="store_true", help="merge LoRA adapters into the language model")
    # Its name in earlier versions, which wrote the language model as a folder only if they were asked to.
    for earlier in ("--language-model", "--language_model"):
        parser.add_argument(earlier, dest="merge_adapters", action="store_true", default=SUPPRESS, help=SUPPRESS)
    parser.add_argument("--title", help="title of the model card (default: the name of the folder)")
    parser.add_argument("--license", help="licence of the model, such as apache-2.0, for the model card")
    parser.add_argument("--results", type=Path, help="report.json of evaluate.py, for the model card")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
