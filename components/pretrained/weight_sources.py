"""Finds the folders and files that parts read their weights from, copies them, and finds them again.

A constructor argument names such a source if it is text and is called ``path``, ``weights`` or ``..._path``. Its value
is a folder, a file, or a name on the model hub.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from components.checkpoints.file_modes import follow_umask
from components.pretrained.object_builder import find_class
from components.recorded_arguments import constructor_hints

INIT_ARGS = "init_args"
_TEXT_ENDINGS = (".json", ".jinja", ".txt", ".model")
WEIGHT_ENDINGS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_NOT_COPIED = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state")


class WeightSource(NamedTuple):
    """A constructor argument that names weights."""

    keys: tuple[str | int, ...]  # its position in the settings of the model, such as ("encoder", "init_args", "path")
    value: str  # folder, file or hub name
    is_optional: bool  # a file of weights to start from: not needed where all weights of the part are stored

    @property
    def part(self) -> str:
        """Name of the part in the model, such as ``encoder``; a reader has its own name."""
        if self.keys[0] != "readers":
            return str(self.keys[0])
        return "bridge" if self.keys[1] == INIT_ARGS else str(self.keys[1])

    @property
    def folder_name(self) -> str:
        """Name for its copy: ``encoder`` for ``path``, ``encoder_video`` for ``video_path``."""
        *above, name = (str(key) for key in self.keys if key not in (INIT_ARGS, "readers", "reader"))
        below = [] if name == "path" else [name.removesuffix("_path")]
        return "_".join(dict.fromkeys([self.part, *above, *below]))


def find_sources(settings: Mapping[str, Any], packages: tuple[str, ...] = ()) -> list[WeightSource]:
    """All sources that the settings of a model name.

    Args:
        settings: The arguments of the model, as ``describe_arguments`` gives them.
        packages: See ``build_object``.
    """
    return [source for name, value in settings.items() for source in _sources_in(value, (name,), packages)]


def with_value(settings: Any, keys: Sequence[str | int], value: Any) -> Any:
    """A copy of nested settings with another value at one position."""
    if not keys:
        return value
    key, *rest = keys
    changed: Any = list(settings) if isinstance(settings, list) else dict(settings or {})
    inside = changed[key] if isinstance(settings, list) else changed.get(key)
    changed[key] = with_value(inside, rest, value)
    return changed


def copy_source(source: WeightSource, target: Path, *, with_weights: bool = True) -> str:
    """Copy what a part reads into the folder of a model.

    Of a folder its texts are copied, and its weights in one format: safetensors where there are any.

    Args:
        source: What to copy. A name on the model hub is downloaded, or taken from the local cache.
        target: Folder of the model.
        with_weights: Whether to copy weights too.

    Returns:
        The copy, relative to ``target``.

    Raises:
        FileNotFoundError: There is no such folder or file, and no such name on the hub.
    """
    found = Path(source.value) if Path(source.value).exists() else hub_folder(source.value)
    copied = target / source.folder_name
    if found.is_file():
        copied.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, copied / found.name)
        if (found.parent / "config.json").is_file():
            shutil.copyfile(found.parent / "config.json", copied / "config.json")
        return f"{source.folder_name}/{found.name}"
    copied.mkdir(parents=True, exist_ok=True)
    for path in _files_to_copy(found, with_weights):
        shutil.copyfile(path, copied / path.name)
    follow_umask(copied)
    return source.folder_name


def hub_folder(name: str, revision: str | None = None) -> Path:
    """The local copy of a repository on the model hub; it is downloaded if there is none.

    Args:
        name: Such as ``facebook/dinov2-small``.
        revision: Commit, branch or tag; None is the newest.

    Raises:
        FileNotFoundError: It is neither a local folder nor can it be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = "" if revision is None else f" (revision {revision})"
        raise FileNotFoundError(
            f"there is no folder {name!r} (seen from {Path.cwd()}), and no such name on the model hub can be reached"
            f"{at}: {str(error).splitlines()[0]}"
        ) from error


def reference_to(source: WeightSource) -> dict[str, str]:
    """How another folder can refer to a source: ``name`` on the hub and ``revision``, or the absolute ``path``."""
    local = Path(source.value)
    if local.exists() and local.absolute().parent.name != "snapshots":
        return {"path": str(local.absolute())}
    folder = local.absolute() if local.exists() else hub_folder(source.value)
    if folder.parent.name != "snapshots":
        return {"name": source.value}
    cached = folder.parent.parent.name  # models--OWNER--NAME
    return {"name": cached.removeprefix("models--").replace("--", "/", 1), "revision": folder.name}


def _sources_in(value: Any, keys: tuple[str | int, ...], packages: tuple[str, ...]) -> Iterator[WeightSource]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return
    if "class_path" not in value:
        for key, each in value.items():
            yield from _sources_in(each, (*keys, key), packages)
        return
    hints = constructor_hints(find_class(value["class_path"], packages))
    for name, each in value.get(INIT_ARGS, {}).items():
        if isinstance(each, str) and _is_source(name, hints.get(name)):
            yield WeightSource((*keys, INIT_ARGS, name), each, is_optional=name == "weights")
        else:
            yield from _sources_in(each, (*keys, INIT_ARGS, name), packages)


def _is_source(name: str, hint: Any) -> bool:
    is_text = hint is str or (str in get_args(hint) and get_origin(hint) is not Literal)
    return is_text and (name in ("path", "weights") or name.endswith("_path"))


def _files_to_copy(folder: Path, with_weights: bool) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(_NOT_COPIED)]
    texts = [path for path in files if path.suffix in _TEXT_ENDINGS and not path.name.endswith(".index.json")]
    if not with_weights:
        return texts
    for ending in WEIGHT_ENDINGS:
        weights = [path for path in files if path.suffix == ending]
        if weights:
            indices = [path for path in files if path.name.endswith(f"{ending}.index.json")]
            return [*texts, *weights, *indices]
    return texts
