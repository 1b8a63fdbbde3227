"""Writes the model card: ``README.md`` in the folder of a model, in the form that model hubs read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from components.pretrained.frame_settings import FrameSettings
from components.pretrained.model_folder import FolderConfig

_FITS = {"crop": "the centre is cut out", "pad": "padded with black", "stretch": "stretched"}
"""What becomes of frames that are no square, by ``FrameSettings.fit``."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card says that is not in the model.

    Args:
        title: Name of the model; by default that of its folder.
        license: Identifier of the licence, such as ``apache-2.0``.
        results: Report of an evaluation (``report.json`` of ``evaluate.py``).
    """

    title: str | None = None
    license: str | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


def model_card(folder_name: str, model: nn.Module, config: FolderConfig, facts: CardFacts) -> str:
    """The text of the card, as Markdown.

    Args:
        folder_name: Name of the folder.
        model: The model.
        config: The content of its ``config.json``.
        facts: Title, licence and results.
    """
    title = facts.title or folder_name
    lines = [
        "---",
        f"license: {facts.license or 'unknown'}",
        "library_name: membridge",
        "pipeline_tag: video-text-to-text",
        "---",
        "",
        f"# {title}",
        "",
        "A language model that answers questions about videos. It reads a video segment by segment.",
        "",
        "## Use it",
        "",
        "```python",
        "import membridge",
        "",
        f'model = membridge.load("{folder_name}")',
        'print(model.answer("video.mp4", "What happens?"))',
        "```",
        "",
        "## Parts",
        "",
        *_table(["part", "class", "weights"], _parts(model, config)),
        "",
        "## What does it read of a video?",
        "",
        *_frames(config.facts.frames),
        "",
        "## What trained it?",
        "",
        *(_facts(config.facts.run) if config.facts.run else ["Not recorded."]),
        "",
        "## Results",
        "",
        *(_results(facts.results) if facts.results else ["None recorded."]),
        "",
        "## Licence",
        "",
        facts.license or "Not stated. The licences of the encoder and the language model that it contains apply too.",
    ]
    return "\n".join(lines) + "\n"


def _parts(model: nn.Module, config: FolderConfig) -> Iterator[list[str]]:
    for name, part in model.named_children():
        count = sum(parameter.numel() for parameter in part.parameters())
        yield [name, type(part).__name__, f"{count / 1e6:.2f} million, {_origin(name, config)}"]
    settings = config.model.get("segmenter")
    if isinstance(settings, Mapping):
        options = ", ".join(f"{key} {value}" for key, value in settings.get("init_args", {}).items())
        yield ["segmenter", str(settings["class_path"]).rpartition(".")[2], options or "none"]


def _origin(part: str, config: FolderConfig) -> str:
    sources = [source for source in config.sources if source["keys"][0] == part]
    named = [source for source in sources if "file" not in source]
    if not named:
        return "in this folder"
    return "read from " + " and ".join(
        f"{source['name']} ({source.get('revision', 'newest')})" if "name" in source else source["path"]
        for source in named
    )


def _frames(frames: FrameSettings) -> Iterator[str]:
    if frames.size is None:
        yield "- cached features of frames, not pixels"
    else:
        yield f"- frames of {frames.size} x {frames.size} pixels; other shapes: {_FITS[frames.fit]}"
    if frames.tiles_per_side is not None:
        most = f"{frames.tiles_per_side} x {frames.tiles_per_side}"
        yield f"- a picture: the whole picture and at most {most} tiles"
    if frames.num_frames is not None:
        yield f"- {frames.num_frames} frames of every video"
    else:
        most = "" if frames.max_frames is None else f", at most {frames.max_frames}"
        yield f"- {frames.fps:g} frames a second{most}"


def _facts(run: Mapping[str, Any]) -> Iterator[str]:
    for name, value in run.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield f"- {name}: {text}"


def _results(report: Mapping[str, Any]) -> Iterator[str]:
    for name, value in report.get("evaluated", {}).items():
        yield f"- {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
    yield ""
    rows = [[length, *_accuracy(entry)] for length, entry in report.get("by_length", {}).items()]
    yield from _table(
        ["length", "accuracy", "standard error", "questions"], [*rows, ["all", *_accuracy(report["accuracy"])]]
    )


def _accuracy(entry: Mapping[str, Any]) -> list[str]:
    return [f"{entry['value']:.3f}", f"{entry['standard_error']:.3f}", str(entry["questions"])]


def _table(header: list[str], rows: Any) -> Iterator[str]:
    for row in [header, ["---"] * len(header), *rows]:
        yield f"| {' | '.join(row)} |"
