"""Exports the weights of a checkpoint: ``python -m lightning_modules.export CKPT OUT``.

OUT is a folder of safetensors with the parameters as ``VideoLanguageModel`` names them, and the run's config; it needs
no trainer, whichever strategy wrote the checkpoint. ``lightning_modules.trained_model.load_model`` opens it.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tqdm import tqdm

from command_errors import run_and_exit
from components.checkpoints import atomic_folder
from components.checkpoints.exported_weights import ABOUT, PREFIX
from components.checkpoints.file_hashes import content_hash
from components.checkpoints.file_modes import follow_umask
from components.checkpoints.run_checkpoint import CONFIG, RunCheckpoint
from components.checkpoints.safetensors_writer import SafetensorsWriter, TensorSpec
from components.language.adapters import merge_adapters_of
from lightning_modules.console.option_spelling import add_option
from lightning_modules.trained_model import load_model, stored_config

DtypeName = Literal["float32", "bfloat16", "float16"]
_LARGEST_FILE = 5_000_000_000
_TEXT_FILES = (".json", ".jinja", ".txt", ".model")


def export(
    checkpoint: Path,
    out: Path,
    *,
    averaged: bool = False,
    dtype: DtypeName | None = None,
    language_model: bool = False,
    largest_file: int = _LARGEST_FILE,
) -> list[str]:
    """Write the weights of a checkpoint; one tensor is in memory at a time.

    Args:
        checkpoint: A checkpoint of a training run.
        out: New folder. It appears once it is complete.
        averaged: Use the running averages of the parameters that have one.
        dtype: Dtype to cast to; None = as trained.
        language_model: Also write the complete language model, adapters merged, as a Hugging Face folder
            ``OUT/language_model``. Needs memory for the model.
        largest_file: Largest size of a file of weights, in bytes.

    Returns:
        Lines that say what was done.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is damaged, or has no averages.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; choose another folder, or remove it")
    opened = RunCheckpoint(checkpoint)
    if averaged and not opened.has_averages:
        raise ValueError(f"{opened.path} has no running averages: the run did not keep any")
    wanted = None if dtype is None else getattr(torch, dtype)
    atomic_folder.begin(out)
    target = atomic_folder.unfinished_path(out)
    specs = {name: _spec(opened, name, wanted, averaged) for name in sorted(opened.parameters)}
    total = _write_files(target, opened, specs, largest_file, averaged)
    if (opened.path / CONFIG).is_file():
        shutil.copy(opened.path / CONFIG, target / CONFIG)
    lines = [f"{len(specs)} tensors, {total / 1e9:.3f} GB, after step {opened.step}, in {out}"]
    if opened.left_out:
        lines.append(
            f"left out, for they did not train: {len(opened.left_out)} tensors of the parts that config.yaml names"
        )
    hashed = sorted(path for path in target.iterdir() if path.name != CONFIG)  # which may be edited: it names folders
    about = {
        "checkpoint": opened.path.name,
        "step": opened.step,
        "averaged": averaged,
        "left_out": sorted(opened.left_out),
        "fingerprints": {name: fingerprint._asdict() for name, fingerprint in sorted(opened.fingerprints.items())},
        "tokenizer": opened.tokenizer,
        "hashes": {path.name: content_hash(path) for path in hashed},
    }
    (target / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if language_model:
        _write_language_model(opened, target / "language_model", averaged, wanted)
        lines.append(f"the language model in {out / 'language_model'}")
    atomic_folder.publish(out)
    return lines


def _spec(opened: RunCheckpoint, name: str, dtype: torch.dtype | None, averaged: bool) -> TensorSpec:
    weight = opened.weight(name, averaged=averaged)
    return TensorSpec(weight.dtype if dtype is None or not weight.is_floating_point() else dtype, weight.shape)


def _write_files(
    target: Path, opened: RunCheckpoint, specs: Mapping[str, TensorSpec], largest_file: int, averaged: bool
) -> int:
    """Write the weights, with an index if there are several files; returns the bytes written."""
    shards = list(_shards(specs, largest_file))
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(names) > 1 else ["model.safetensors"]
    with tqdm(total=len(specs), desc="weights", unit="tensor", dynamic_ncols=True, disable=None) as bar:
        for file_name, shard in zip(names, shards, strict=True):
            file = SafetensorsWriter(target / file_name, {_plain(name): specs[name] for name in shard})
            for name in shard:
                file.add(_plain(name), opened.weight(name, averaged=averaged).to(specs[name].dtype))
                bar.update()
            file.close()
    total = sum(map(_size, specs.values()))
    if len(names) > 1:
        files = {_plain(name): file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return total


def _shards(specs: Mapping[str, TensorSpec], largest_file: int) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, spec in specs.items():
        if shard and size + _size(spec) > largest_file:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += _size(spec)
    yield shard


def _size(spec: TensorSpec) -> int:
    return spec.shape.numel() * spec.dtype.itemsize


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX)


def _write_language_model(opened: RunCheckpoint, target: Path, averaged: bool, dtype: torch.dtype | None) -> None:
    """Write the language model as a folder that transformers opens."""
    settings = stored_config(opened.path)["model"]["language_model"]["init_args"]
    trained: Any = load_model(opened.path, averaged=averaged).language_model
    merged = merge_adapters_of(trained.model)
    if dtype is not None or merged:  # of one dtype, which config.json names
        trained.model.to(dtype or torch.float32)
    trained.model.save_pretrained(target)
    follow_umask(target)
    source = Path(settings["path"])
    if settings.get("gguf_file") is not None or not source.is_dir():
        trained.tokenizer.save_pretrained(target)
        follow_umask(target)
        return
    # Copied, because transformers loses some of a tokenizer's settings when it saves one.
    for path in source.iterdir():
        if path.suffix in _TEXT_FILES and path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copy(path, target / path.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.export", description=(__doc__ or "").replace("``", "")
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint that training wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--averaged", action="store_true", help="take running averages of the weights where there are")
    parser.add_argument("--dtype", choices=get_args(DtypeName), help="cast to this (default: as trained)")
    about = "also write the language model as a Hugging Face folder"
    add_option(parser, "--language-model", action="store_true", help=about)
    given = parser.parse_args(arguments)
    options = {"averaged": given.averaged, "dtype": given.dtype, "language_model": given.language_model}
    print("\n".join(export(given.checkpoint, given.out, **options)))


if __name__ == "__main__":
    run_and_exit(main)
