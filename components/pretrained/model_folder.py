"""The files in the folder of a model, and reading its config.

config.json         the model: every part as class_path and init_args, the frames that it reads, what trained it
model.safetensors   weights that the folders below do not have, named as in the model; large ones in several files
export.json         what is stored, hashes of all files of weights, fingerprints of what is not stored
language_model/     the language model as a Hugging Face folder: configuration, weights, tokenizer, chat template
encoder/ ...        what each other part reads its frozen weights from
config.yaml         the config of the training run, where there was one
README.md           the model card
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from components.checkpoints.exported_weights import ABOUT
from components.checkpoints.json_file import read_json
from components.checkpoints.run_checkpoint import INDEX
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.pretrained.weight_sources import hub_folder, with_value

FORMAT = "membridge model"
VERSION = 1
CONFIG = "config.json"
CARD = "README.md"
LANGUAGE_MODEL = "language_model"

DtypeName = Literal["float32", "bfloat16", "float16"]


class FolderConfig(NamedTuple):
    """The content of ``config.json``."""

    model: dict[str, Any]  # arguments of VideoLanguageModel; sources of weights as they are named in the folder
    sources: list[dict[str, Any]]  # where each source is: its keys in ``model``, and file, path, or name and revision
    dtype: str | None  # of all weights; None: each part has its own
    facts: TrainingFacts

    def to_json(self) -> str:
        """The text of the file."""
        frames = vars(self.facts.frames)
        rest = {"max_new_tokens": self.facts.max_new_tokens, "training": dict(self.facts.run)}
        content = {"format": FORMAT, "version": VERSION, "model": self.model, "sources": self.sources}
        return json.dumps({**content, "dtype": self.dtype, "frames": frames, **rest}, indent=2) + "\n"


def is_model_folder(path: Path) -> bool:
    """Whether a folder is a complete model, as ``save_pretrained`` writes it."""
    if not (path / CONFIG).is_file():
        return False
    content = read_json(path / CONFIG)
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_folder_config(path: Path) -> FolderConfig:
    """Read ``config.json``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is no folder of a model, is damaged, or is of another version.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path} (seen from {Path.cwd()})")
    if not is_model_folder(path):
        raise ValueError(f"{path} is no folder of a model{_what_it_is(path)}")
    content = read_json(path / CONFIG)
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {content.get('version')} of the format, this code reads version {VERSION}; use the "
            "version of the code that wrote it"
        )
    try:
        facts = TrainingFacts(FrameSettings(**content["frames"]), content["max_new_tokens"], content["training"])
        return FolderConfig(content["model"], content["sources"], content["dtype"], facts)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged or was edited ({error!r}): copy the folder again") from error


def with_sources_found(
    settings: Mapping[str, Any], config: FolderConfig, folder: Path, replaced: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Replace the sources in settings of the model by paths on this machine.

    Args:
        settings: Settings in the form of ``config.model``; keys of another part than the folder's are left alone.
        config: The config of the folder.
        folder: The folder.
        replaced: Paths for some sources, by the name that the folder gives them, such as ``encoder``.

    Raises:
        FileNotFoundError: The folder refers to something that is not there.
    """
    found = dict(settings)
    for source in config.sources:
        found = with_value(found, source["keys"], _locate(source, folder, replaced or {}))
    return found


def _locate(source: Mapping[str, Any], folder: Path, replaced: Mapping[str, str]) -> str | None:
    """Path of a source; None for one that the folder's own weights replace."""
    if source["as"] in replaced:
        return str(replaced[source["as"]])
    if "file" in source:
        return None if source["file"] is None else str(folder / source["file"])
    advice = (
        f"{folder} was written with frozen='reference', so it does not hold the weights of {source['as']!r}. Put them "
        f"back, name them (sources={{'{source['as']}': PATH}}), or write the folder again with frozen='copy'"
    )
    if "path" in source:
        if not Path(source["path"]).exists():
            raise FileNotFoundError(f"there is no {source['path']}. {advice}")
        return str(source["path"])
    try:
        return str(hub_folder(source["name"], source.get("revision")))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {advice}") from error


def _what_it_is(path: Path) -> str:
    if (path / INDEX).is_file():
        command = f"python -m lightning_modules.export {shlex.quote(str(path))} OUT"
        return f". It is a checkpoint of a training run; export it first: {command}"
    if (path / ABOUT).is_file():
        return (
            ". It is an export of an earlier version: open it with lightning_modules.trained_model.load_model, or "
            "export the checkpoint again"
        )
    if (path / CONFIG).is_file():
        return ": its config.json is of another library. Name it as the path of a part, such as an encoder"
    return f": it has no {CONFIG}"
