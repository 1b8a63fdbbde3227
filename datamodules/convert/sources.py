"""The layouts of other projects' data: which files they have, how to read the rows, and where the media are.

A new layout is one function that lists ``Annotation``s, and one line in ``SOURCES``.

Source: the layouts are those of PLLaVA's magic_jsons and VideoChat2-IT, LLaVA-1.5, VideoLLaMB-IT, LLaVA-Video-178K and
the mixture files of LLaVA-NeXT.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from datamodules.convert.json_rows import read_rows
from datamodules.convert.row_problems import ConversionError
from datamodules.convert.rows import Row, llava_row, pllava_row
from datamodules.convert.sampling import Sampling, parse_sampling
from datamodules.convert.webdataset_rows import read_webdataset, webdataset_row
from datamodules.errors import ShardError
from datamodules.shards.shard_names import find_shards
from datamodules.shards.storage import is_remote

_CATEGORIES = {"cap": "caption", "oe": "open_ended", "mc": "multiple_choice"}
_CATEGORY = re.compile(r"_(cap|oe|mc)(?=_)")
_SHARD_NUMBER = re.compile(r"[-_.]\d{3,}$|^\d+$")


class MediaRoots(NamedTuple):
    """Folders of media from the command line: ``DIR`` for all annotations, ``LABEL=DIR`` for those below a label."""

    roots: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "MediaRoots":
        """Read the options of the command line.

        Raises:
            ConversionError: A folder does not exist, so no media would be found.
        """
        roots = []
        for text in texts:
            label, separator, folder = ("", "", text) if text.startswith(("/", ".")) else text.partition("=")
            if not separator:
                label, folder = "", text
            if not Path(folder).is_dir():
                raise ConversionError(f"media root {folder!r} is no folder (seen from {Path.cwd()}); check the path")
            roots.append((label.strip("/"), str(Path(folder).resolve())))
        return cls(tuple(roots))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Check that the label of every root fits an annotation.

        Raises:
            ConversionError: A label fits none of these; media would be searched in other folders.
        """
        for name, folder in self.roots:
            if name and not any(_fits(name, label) for label in labels):
                known = ", ".join(labels[:10])
                raise ConversionError(
                    f"--media-root {name}={folder}: no annotation is below {name!r}; there are {known}"
                )

    def below(self, label: str, default: Sequence[Path]) -> tuple[str, ...]:
        """The folders of an annotation's media: those with the longest label that fits, or ``default``."""
        fitting = [root for root in self.roots if _fits(root[0], label)]
        longest = max((len(name) for name, _ in fitting), default=0)
        found = [folder for name, folder in fitting if len(name) == longest]
        return tuple(dict.fromkeys(found or [str(folder.resolve()) for folder in default]))


def _fits(root: str, label: str) -> bool:
    return root == "" or f"{label}/".startswith(f"{root}/")


class Annotation(NamedTuple):
    """One file of rows.

    Attributes:
        path: JSON list or JSON lines.
        label: Name of the file in conversation ids and reports; unique in a conversion.
        read_row: Reads one of its rows.
        folders: Folders of its media, searched in this order; of a tar, the tar itself.
        source: Name of its samples' source, given the path of their media (None for text).
        category: Category of its questions; empty for none.
        sampling: Which of its rows are used.
        read_items: Reads the file: given the path, and what to call with the number of bytes read, it yields what
            ``read_row`` takes, or a ``RowProblem``.
    """

    path: Path
    label: str
    read_row: Callable[[Any], Row]
    folders: tuple[str, ...]
    source: Callable[[str | None], str]
    category: str = ""
    sampling: Sampling = Sampling()
    read_items: Callable[[Path, Callable[[int], object]], Iterator[Any]] = read_rows

    @property
    def is_tar(self) -> bool:
        """Whether the file is a tar, which contains its media."""
        return self.read_items is read_webdataset


def llava(files: Sequence[Path], roots: MediaRoots, seed: int) -> list[Annotation]:
    """LLaVA-1.5's 665k mix, and any files of that form: rows with image, video or neither."""
    return [
        Annotation(path, label, llava_row, roots.below(label, [path.parent]), _always(label))
        for path, label in zip(files, _labels(files), strict=True)
    ]


def videollamb(files: Sequence[Path], roots: MediaRoots, seed: int) -> list[Annotation]:
    """VideoLLaMB-IT's one file; a sample's source is its media's folder, such as videollamb/ssv2."""
    return [annotation._replace(source=_videollamb_set) for annotation in llava(files, roots, seed)]


def pllava(folders: Sequence[Path], roots: MediaRoots, seed: int) -> list[Annotation]:
    """PLLaVA's magic_jsons and VideoChat2-IT: a tree {video,image}/CATEGORY/NAME/train.json, or single files of it."""
    found = []
    for folder in folders:
        if folder.is_file():
            label = folder.parent.resolve().name if folder.stem == "train" else folder.stem
            media_folders = roots.below(label, [folder.parent])
            found.append(Annotation(folder, label, pllava_row, media_folders, _always(label)))
            continue
        for path in _files(folder, [f"{'*/' * depth}train*.json" for depth in range(4)]):
            parts = path.relative_to(folder).with_suffix("").parts
            label = "/".join(parts[:-1] if parts[-1] == "train" else parts) or folder.resolve().name
            category = parts[1] if len(parts) > 3 else ""
            found.append(Annotation(path, label, pllava_row, roots.below(label, [folder]), _always(label), category))
    return _with_unique_labels(found)


def llava_video(folders: Sequence[Path], roots: MediaRoots, seed: int) -> list[Annotation]:
    """LLaVA-Video-178K: subsets' folders with *_processed.json files, or single files; media are there or beside."""
    found = []
    for folder in folders:
        is_file = folder.is_file()
        above = folder.resolve().parent.parent if is_file else folder
        for path in [folder.resolve()] if is_file else _files(folder, ["*_processed.json", "*/*_processed.json"]):
            label = path.relative_to(above).with_suffix("").as_posix()
            media_folders = roots.below(label, [path.parent, above])
            found.append(Annotation(path, label, llava_row, media_folders, _always(path.parent.name), _category(path)))
    return _with_unique_labels(found)


def mixture(
    files: Sequence[Path], roots: MediaRoots, seed: int, annotation_root: Path | None = None
) -> list[Annotation]:
    """LLaVA-NeXT's YAML: datasets, a list of json_path (seen from the YAML's folder) and sampling_strategy."""
    if annotation_root is not None and not annotation_root.is_dir():
        raise ConversionError(f"--annotation-root {annotation_root} is no folder (seen from {Path.cwd()})")
    found: list[tuple[Path, Sampling]] = []
    for file in files:
        for entry in _datasets(file):
            path = (annotation_root or file.parent) / str(entry["json_path"])
            sampling = parse_sampling(entry.get("sampling_strategy", "all"), f"{seed}/{len(found)}")
            found.append((path, sampling))
    paths = [path for path, _ in found]
    return [
        Annotation(path, label, llava_row, roots.below(label, [path.parent]), _always(label), _category(path), sampling)
        for (path, sampling), label in zip(found, _labels(paths), strict=True)
    ]


def webdataset(patterns: Sequence[Path], roots: MediaRoots, seed: int) -> list[Annotation]:
    """WebDataset tars, also as train-{000..012}.tar or a folder: a picture or video beside KEY.json or KEY.txt."""
    names = [re.sub(r"^(https?|s3|gs):/+", r"\1://", str(pattern)) for pattern in patterns]
    if remote := next((name for name in names if is_remote(name) or name.startswith("pipe:")), None):
        raise ConversionError(f"{remote} is no local file; fetch the tars first, then convert them")
    try:
        paths = [Path(name) for name in find_shards(names)]
    except ShardError as error:
        raise ConversionError(str(error)) from error
    return [
        Annotation(
            path, label, webdataset_row, (str(path.resolve()),), _always(_set_of(path)), read_items=read_webdataset
        )
        for path, label in zip(paths, _labels(paths), strict=True)
    ]


SOURCES: dict[str, Callable[[Sequence[Path], MediaRoots, int], list[Annotation]]] = {
    "pllava": pllava,
    "llava": llava,
    "videollamb": videollamb,
    "llava-video": llava_video,
    "mixture": mixture,
    "webdataset": webdataset,
}
"""Name on the command line -> what lists the annotations of the given paths."""


def _datasets(file: Path) -> list[dict[str, Any]]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConversionError(f"mixture {file} cannot be read: {error}") from error
    entries = document.get("datasets") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConversionError(f"mixture {file} has no 'datasets'; expected a list of json_path and sampling_strategy")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "json_path" not in entry or entry.keys() - {"json_path", "sampling_strategy"}:
            raise ConversionError(
                f"mixture {file}: dataset {number} is {entry!r}; expected json_path and, optionally, sampling_strategy"
            )
    return entries


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not folder.exists():
        raise ConversionError(f"{folder} does not exist (seen from {Path.cwd()}); expected a folder or a file of rows")
    if not paths:
        raise ConversionError(
            f"no annotation in {folder} (seen from {Path.cwd()}); looked for {', '.join(patterns)}: check the folder"
        )
    return paths


def _labels(paths: Sequence[Path]) -> list[str]:
    """Name files by their paths below the folder that they share; the second of two equal ones gets ``~2``."""
    absolute = [path.resolve() for path in paths]
    shared = os.path.commonpath([path.parent for path in absolute]) if paths else ""
    return _unique([path.relative_to(shared).with_suffix("").as_posix() for path in absolute])


def _unique(labels: Sequence[str]) -> list[str]:
    unique: dict[str, None] = {}
    for label in labels:
        number = 1
        while (name := label if number == 1 else f"{label}~{number}") in unique:
            number += 1
        unique[name] = None
    return list(unique)


def _with_unique_labels(annotations: Sequence[Annotation]) -> list[Annotation]:
    labels = _unique([annotation.label for annotation in annotations])
    return [annotation._replace(label=label) for annotation, label in zip(annotations, labels, strict=True)]


def _set_of(tar: Path) -> str:
    """The name of a tar without its number; of one that is only a number, its folder's name."""
    return _SHARD_NUMBER.sub("", tar.stem) or tar.resolve().parent.name


def _always(name: str) -> Callable[[str | None], str]:
    return lambda media: name


def _videollamb_set(media: str | None) -> str:
    folders = [] if media is None else [part for part in PurePosixPath(media).parts[:-1] if part != "videochat"]
    return f"videollamb/{folders[1] if len(folders) > 1 else 'text' if media is None else 'other'}"


def _category(path: Path) -> str:
    """Category of questions, as the names of LLaVA-Video-178K's files say it."""
    found = _CATEGORY.search(path.stem)
    return _CATEGORIES[found[1]] if found else ""
