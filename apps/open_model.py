"""Opens the model that an app is started with: a model folder, a name on the model hub, or a training run.

Every app has the argument MODEL and the options ``--device`` and ``--dtype`` from here.
"""

import hashlib
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from transformers.utils.logging import disable_progress_bar

import membridge
from components.checkpoints.exported_weights import ABOUT
from components.checkpoints.run_checkpoint import CONFIG as RUN_CONFIG
from components.checkpoints.run_checkpoint import INDEX
from components.encoders.cached import CachedFeatures
from components.pretrained.model_folder import CONFIG as FOLDER_CONFIG
from components.pretrained.model_folder import DtypeName, is_model_folder
from components.pretrained.weight_sources import hub_folder
from membridge.answering_model import with_answers

_LINKS = ("final.ckpt", "last.ckpt")  # of a run's checkpoints, the best choice first
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def add_model_arguments(parser: ArgumentParser, *, as_option: bool = False) -> None:
    """Add MODEL, ``--device``, ``--dtype`` and ``--config`` to the parser of an app; ``open_given`` reads them.

    Args:
        parser: The parser.
        as_option: The model is given by ``--model`` instead of the first argument.
    """
    what = "model folder, name on the model hub, checkpoint of a training run, or folder of a run"
    if as_option:
        parser.add_argument("--model", metavar="MODEL", required=True, help=what)
    else:
        parser.add_argument("model", metavar="MODEL", help=what)
    parser.add_argument("--device", help="device of the model, such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=get_args(DtypeName), help="dtype of the weights (default: as written)")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        help="for a checkpoint only: config files in place of the run's own, merged in order",
    )


def open_given(options: Namespace) -> membridge.VideoLanguageModel:
    """Open the model that a command line names; see ``open_model``."""
    return open_model(options.model, options.device, options.dtype, config=options.config)


def open_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: DtypeName | None = None,
    *,
    config: Sequence[Path] | None = None,
) -> membridge.VideoLanguageModel:
    """Open a model that reads files of videos and pictures.

    Args:
        path: A model folder, a name on the model hub, a checkpoint of a training run, or the folder of a run. Of a run
            the last checkpoint is opened.
        device: Device of the model; by default the first GPU, or the CPU where there is none.
        dtype: Dtype of all weights; by default as they were written. Not for a checkpoint.
        config: For a checkpoint, config files in place of the run's own, merged in order.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: There is no such folder, or something that it refers to is missing.
        ValueError: It is none of these, is damaged, reads cached features, or an option does not fit it.
    """
    target = chosen_device(device)
    if not sys.stderr.isatty():
        disable_progress_bar()  # of weights; in a file it is many lines
    path = Path(path).expanduser()
    checkpoint = _checkpoint_at(path)
    if checkpoint is None:
        if config is not None:
            raise ValueError(f"--config is for checkpoints; {path} is none, and has its settings in itself")
        model = membridge.load(path, device=target, dtype=dtype)
    else:
        if dtype is not None:
            raise ValueError(
                f"{path} is a checkpoint of a training run, which is opened in the dtype of its training. Export it "
                f"with the other one: {_export(checkpoint)} --dtype {dtype}"
            )
        # Needs Lightning's packages, which a model folder does not.
        from lightning_modules.trained_model import load_model

        model = with_answers(load_model(checkpoint, config=config, device=target))
    if isinstance(model.encoder, CachedFeatures):
        where = "Add --config CONFIG to this command" if checkpoint else "Export the checkpoint again"
        raise ValueError(
            f"{path} reads cached features of frames, no pixels, so it cannot read a file. {where}, with the config of "
            f"the encoder that made the features. To export: {_export(checkpoint or Path('CHECKPOINT'))} "
            "--config CONFIG"
        )
    return model


def model_identity(path: str | Path, config: Sequence[Path] | None = None) -> str:
    """A hash that is equal for equal models, wherever they are: of the lists of hashes that are stored with weights.

    Args:
        path: See ``open_model``; the model has been opened.
        config: See ``open_model``.
    """
    folder = Path(path).expanduser()
    folder = _checkpoint_at(folder) or (folder if folder.exists() else hub_folder(str(path)))
    files = [folder / name for name in (INDEX, ABOUT, FOLDER_CONFIG, RUN_CONFIG)]
    digest = hashlib.sha256()
    for file in [*files, *(config or ())]:
        digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
    return digest.hexdigest()[:32]


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device, checked: a wrong one is found before a large model has been read.

    Args:
        device: As given; None is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device} is no device; give cpu, cuda, or cuda:1 for the second GPU") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        number = torch.cuda.device_count()
        raise ValueError(f"--device {device} is not there: PyTorch sees {number} GPUs; give cpu or another GPU")
    return chosen


def _checkpoint_at(path: Path) -> Path | None:
    """The checkpoint that a path means; None for a model folder or a name on the hub.

    Raises:
        FileNotFoundError: There is nothing at the path, and it is no name on the hub.
        ValueError: It is a file, or a folder of something else.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; MODEL is the folder of a model, or a run's checkpoint, which is a folder")
    if not path.exists():
        if _HUB_NAME.fullmatch(str(path)) and path.suffix != ".ckpt" and not path.parent.exists():
            return None
        raise FileNotFoundError(
            f"there is no model {path} (seen from {Path.cwd()}); give a model folder, NAME/MODEL on the model hub, or "
            "a checkpoint such as runs/NAME/version_0/checkpoints/final.ckpt"
        )
    if is_model_folder(path):
        return None
    if (path / INDEX).is_file() or (path / ABOUT).is_file():
        return path
    for folder in (path, path / "checkpoints"):
        for link in _LINKS:
            if (folder / link).exists():
                return folder / link
    runs = sorted(run.parent.name for run in path.glob("*/checkpoints"))
    which = f". It holds the runs {', '.join(runs)}: name one of them" if runs else ", and no checkpoint of a run"
    raise ValueError(f"{path} is no folder of a model{which}")


def _export(checkpoint: Path) -> str:
    return f"python -m lightning_modules.export {shlex.quote(str(checkpoint))} OUT"
