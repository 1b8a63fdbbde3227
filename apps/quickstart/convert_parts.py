"""Converts pretrained weights from an ONNX graph or a GGUF file to Hugging Face folders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.checkpoints.file_modes import follow_umask

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

# DINOv2 was trained on 37 x 37 patches of 14 px; transformers resizes this grid for other frame sizes.
_DINOV2_CONFIG = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
_DINOV2_PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}
# First eight numbers of the class token and of the last patch after the final layer norm, as the ONNX graph itself
# gives them (onnx.reference.ReferenceEvaluator, node "/backbone/layernorm/Add_1") for the image of `_check_image`.
_DINOV2_CLS = (1.2029763, -0.6577635, 0.9983275, -3.7597725, -0.7750452, -0.6024273, 1.5487119, 0.1088138)
_DINOV2_LAST_PATCH = (1.5457612, 0.2793813, 0.4218724, -4.1274333, -1.1635633, -2.3951480, 1.7826481, 0.9468997)
_DINOV2_TOLERANCE = 1e-3


def dinov2_folder(onnx_file: Path, folder: Path) -> None:
    """Write the DINOv2 ViT-S/14 inside an ONNX graph as a Hugging Face folder.

    Args:
        onnx_file: Graph exported from a transformers ``Dinov2Model`` named ``backbone``.
        folder: Existing folder that receives ``config.json``, ``preprocessor_config.json`` and the weights.

    Raises:
        ValueError: The folder does not load completely, or the loaded model gives other numbers than the graph.
            Without this check, random attention weights would not be noticed.
    """
    import onnx
    from safetensors.torch import save_file
    from transformers import Dinov2Config

    Dinov2Config(**_DINOV2_CONFIG, architectures=["Dinov2Model"]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_DINOV2_PROCESSOR, indent=2) + "\n", encoding="utf-8")
    weights = dinov2_weights(onnx.load(onnx_file))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    follow_umask(folder)
    _check_dinov2(folder)


def dinov2_weights(model: "ModelProto") -> "dict[str, Tensor]":
    """Read the weights of the ``Dinov2Model`` called ``backbone`` from an ONNX graph.

    The exporter keeps the names of most parameters. The weight of a linear layer becomes an unnamed, transposed
    constant, and the name of its MatMul node is the module's path. Position embeddings are split in two.

    Args:
        model: The ONNX model.

    Returns:
        Parameters by their name in ``Dinov2Model``.

    Raises:
        ValueError: The graph has no position embeddings where a transformers export puts them.
    """
    import torch
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}

    def read(name: str) -> "Tensor":
        return torch.from_numpy(numpy_helper.to_array(constants[name]).copy())

    weights = {name.removeprefix("backbone."): read(name) for name in constants if name.startswith("backbone.")}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in constants:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{path}.weight"] = read(node.input[1]).T.contiguous()
    try:
        class_position = read(nodes["/backbone/embeddings/Concat_6"].input[0])
        patch_positions = read(nodes["/backbone/embeddings/Reshape_1"].input[0])
    except KeyError as missing:
        raise ValueError(
            f"no {missing} in the ONNX graph, where the position embeddings of a transformers Dinov2Model are; "
            "the file was exported in another way than this code expects"
        ) from missing
    weights["embeddings.position_embeddings"] = torch.cat([class_position, patch_positions], dim=1)
    # Only masked-image training uses it, so the export does not have it.
    weights["embeddings.mask_token"] = torch.zeros(1, class_position.shape[-1])
    return weights


def load_completely(model_class: type, folder: Path, **options: object) -> "nn.Module":
    """Load a Hugging Face folder; refuse a model with missing weights.

    Args:
        model_class: A transformers model class.
        folder: The folder.
        **options: More arguments of ``from_pretrained``.

    Raises:
        ValueError: Weights are missing, unexpected or of another shape.
    """
    model, report = model_class.from_pretrained(folder, output_loading_info=True, **options)  # type: ignore[attr-defined]
    problems = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
    if problems:
        raise ValueError(f"{folder} does not have exactly the weights of a {model_class.__name__}: {problems}")
    loaded: nn.Module = model.eval()
    return loaded


def _check_dinov2(folder: Path) -> None:
    import torch
    from transformers import Dinov2Model

    model = load_completely(Dinov2Model, folder, dtype=torch.float32)
    with torch.no_grad():
        output = model(pixel_values=_check_image()).last_hidden_state[0]  # [1 + N, D]
    got = torch.cat([output[0, :8], output[-1, :8]])
    wanted = torch.tensor(_DINOV2_CLS + _DINOV2_LAST_PATCH)
    difference = (got - wanted).abs().max().item()
    if not difference < _DINOV2_TOLERANCE:
        raise ValueError(
            f"{folder} differs from its ONNX graph by {difference:.2g} (allowed {_DINOV2_TOLERANCE}); "
            "the installed transformers reads the weights differently than this code expects"
        )


def _check_image() -> "Tensor":
    """An image computed from integers, equal on every machine."""
    import torch

    return ((torch.arange(3 * 224 * 224) % 251) / 125 - 1).reshape(1, 3, 224, 224)


def smollm2_folder(gguf_file: Path, folder: Path) -> None:
    """Write a Llama-style language model from a GGUF file as a Hugging Face folder, weights in bfloat16.

    Args:
        gguf_file: The quantised model, with tokenizer and chat template inside.
        folder: Existing folder that receives config, weights and tokenizer.

    Raises:
        ValueError: The folder does not load completely, or its tokenizer has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf_file.parent, "gguf_file": gguf_file.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # A model loaded from GGUF cannot be saved; a new one with the same weights can.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(quantised)(config).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf_file} has no chat template, so the model cannot be asked questions")
    tokenizer.save_pretrained(folder)
    follow_umask(folder)
    load_completely(type(quantised), folder)
