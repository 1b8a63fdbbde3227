"""Builds the model of ``configs/model/videollamb_7b.yaml`` with random weights, on its device from the start."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from apps.commands import ROOT
from apps.quickstart.tokenizer import train_tokenizer
from benchmarks.bridge.forms import admit_everything
from benchmarks.full_size.sizes import Shape
from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.encoders.languagebind import LanguageBindEncoder
from components.interfaces import VisualReader
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.model import VideoLanguageModel
from components.pooling.patch_pooling import GridPooling
from components.segmenters.scene_tilling import SceneTilling
from components.selection.all_frames import AllFrames
from components.selection.linspace_frames import LinspaceFrames
from components.streams import MEMORY_STREAM, StreamReader

CONFIG = ROOT / "configs" / "model" / "videollamb_7b.yaml"
QUESTION = "what is shown in this video ?"
BridgeForm = Literal["published", "selective"]
BRIDGE_FORMS: tuple[BridgeForm, ...] = ("published", "selective")
Trains = Literal["everything", "lora", "bridge"]
TRAINS: dict[Trains, str] = {
    "everything": "bridge and language model, with AdamW: weights, gradients and both moments in bfloat16 (what fits; "
    "small steps are rounded away, so it is a measurement and no recipe)",
    "lora": "bridge and LoRA adapters of rank 16 in float32 with AdamW, beside a frozen language model in bfloat16",
    "bridge": "bridge in float32 with AdamW, its gradients through a frozen language model in bfloat16",
}
"""What may train, and how."""


def build_model(shape: Shape, form: BridgeForm, trains: Trains | None, device: torch.device) -> VideoLanguageModel:
    """Build the model of the configuration.

    Args:
        shape: Sizes of its parts.
        form: The configuration's own bridge, or the project's default in its place, which
            has its gate open: every segment is remembered, which is the most work there can be.
        trains: What trains; None freezes all and gives a model in evaluation mode.
        device: Where the weights are made.

    Returns:
        The model; encoders and language model in bfloat16, the bridge too unless it trains beside frozen weights.
    """
    # Values of a YAML file have no static types.
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG).model)
    arguments = {name: value for name, value in config["bridge"]["init_args"].items() if name != "weights"}
    arguments |= dict(shape.bridge)
    with TemporaryDirectory() as temporary, device:
        folder = Path(temporary)
        _describe_parts(folder, shape)
        torch.manual_seed(0)  # the encoders come first: every model cuts the same videos alike
        encoder = LanguageBindEncoder(
            str(folder / "vision"),
            str(folder / "vision"),
            layer=config["encoder"]["init_args"]["layer"],
            dtype="bfloat16",
            weights="random",
        )
        language_model = HuggingFaceCausalLM(
            str(folder / "language"),
            weights="random",
            dtype="bfloat16",
            lora=LoraSettings() if trains == "lora" else None,
            freeze=trains in ("bridge", None),
            gradient_checkpointing=trains is not None,
        )
        bridge = _build_bridge(form, encoder.dim, language_model.dim, arguments)
    bridge.requires_grad_(trains is not None)
    if trains in ("lora", "bridge"):
        _in_float32(language_model)
    else:
        bridge.to(torch.bfloat16)
    model = VideoLanguageModel(
        encoder=encoder,
        patch_pooling=GridPooling(encoder.dim, grid=shape.pool_grid),
        segmenter=SceneTilling(**config["segmenter"]["init_args"]),
        readers=StreamReader(bridge, LinspaceFrames(**config["frame_selection"]["init_args"])),
        language_model=language_model,
    )
    return model.train(trains is not None)


def read_every_frame(model: VideoLanguageModel) -> None:
    """Make the model read all frames; a segment has at most as many frames as were read of one before."""
    segmenter, selection = model.segmenter, model.frame_selections[MEMORY_STREAM]
    assert isinstance(segmenter, SceneTilling)
    assert isinstance(selection, LinspaceFrames)
    model.segmenter = SceneTilling(k=segmenter.k, max_segment_frames=selection.max_frames)
    model.frame_selections[MEMORY_STREAM] = AllFrames()


def _build_bridge(form: BridgeForm, dim: int, out_dim: int, arguments: Mapping[str, Any]) -> VisualReader[Any]:
    if form == "published":
        return VideoLLaMBBridge(dim, out_dim, **arguments)
    shared = {name: arguments[name] for name in ("num_memory", "num_layers", "num_heads")}
    bridge = RecurrentMemoryBridge(dim, out_dim, **shared)
    admit_everything(bridge)
    return bridge


def _describe_parts(folder: Path, shape: Shape) -> None:
    """Write the files that the parts need to be built with random weights: configurations and a small tokenizer."""
    (folder / "vision").mkdir()
    (folder / "vision" / "config.json").write_text(json.dumps(dict(shape.vision)), encoding="utf-8")
    train_tokenizer(iter([QUESTION])).save_pretrained(folder / "language")
    (folder / "language" / "config.json").write_text(json.dumps(dict(shape.language)), encoding="utf-8")


def _in_float32(language_model: HuggingFaceCausalLM) -> None:
    """Cast adapters to float32. In the dtype of the frozen weights, AdamW's small steps would be rounded to zero."""
    for parameter in language_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
