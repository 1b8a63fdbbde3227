from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from apps.quickstart import convert_parts as pretrained
from apps.quickstart.convert_parts import dinov2_folder, dinov2_weights, load_completely
from apps.quickstart.fetch import default_cache, is_complete
from apps.quickstart.parts import ENCODER

TINY = {**pretrained._DINOV2_CONFIG, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def original(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Weights of a tiny DINOv2 under the names that a saved folder has."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**TINY))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "original")
    return load_file(tmp_path / "original" / "model.safetensors")


def as_exported(weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """A graph that holds the weights as torch's exporter does: linear weights nameless, transposed, in MatMul nodes."""
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, tensor: torch.Tensor) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), name))
        return name

    for name, tensor in weights.items():
        module = name.removesuffix(".weight")
        if name == "embeddings.position_embeddings":
            first, rest = constant("onnx::Concat", tensor[:, :1]), constant("onnx::Reshape", tensor[:, 1:])
            nodes.append(helper.make_node("Concat", [first, "x"], ["a"], name="/backbone/embeddings/Concat_6", axis=1))
            nodes.append(helper.make_node("Reshape", [rest, "x"], ["b"], name="/backbone/embeddings/Reshape_1"))
        elif name.endswith(".weight") and tensor.ndim == 2:
            transposed = constant(f"onnx::MatMul_{len(constants)}", tensor.T)
            path = f"/backbone/{module.replace('encoder.layer.', 'encoder/layer#').replace('.', '/')}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", transposed], [name], name=path.replace("#", ".")))
        elif name != "embeddings.mask_token":
            constant(f"backbone.{name}", tensor)
    constant("decoder.final.weight", torch.ones(1))
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["scores"], name="/backbone/encoder/layer.0/attention/MatMul"))
    return helper.make_model(helper.make_graph(nodes, "exported", [], [], constants))


def test_every_weight_is_read_back_from_the_graph(original: dict[str, torch.Tensor]) -> None:
    read = dinov2_weights(as_exported(original))
    assert read.keys() == original.keys()
    for name in original.keys() - {"embeddings.mask_token"}:
        assert torch.equal(read[name], original[name]), name


def test_folder_that_does_not_give_the_graphs_numbers_is_refused(
    tmp_path: Path, original: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_DINOV2_CONFIG", TINY)
    onnx.save(as_exported(original), tmp_path / "other.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="differs from its ONNX graph"):
        dinov2_folder(tmp_path / "other.onnx", tmp_path / "folder")


def test_other_exports_are_refused_by_name(original: dict[str, torch.Tensor]) -> None:
    exported = as_exported({name: t for name, t in original.items() if name != "embeddings.position_embeddings"})
    with pytest.raises(ValueError, match="Concat_6"):
        dinov2_weights(exported)


def test_partly_random_model_is_refused(tmp_path: Path, original: dict[str, torch.Tensor]) -> None:
    folder = tmp_path / "original"
    attention = next(name for name in original if "attention" in name and name.endswith("key.weight"))
    save_file(
        {name: t for name, t in original.items() if name != attention}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match="missing_keys"):
        load_completely(Dinov2Model, folder)


@pytest.mark.slow
@pytest.mark.skipif(
    not is_complete(default_cache() / ENCODER.folder, ENCODER), reason="python -m apps.quickstart.fetch was not run"
)
def test_fetched_encoder_loads_completely_and_is_the_whole_vit_s() -> None:
    model = load_completely(Dinov2Model, default_cache() / ENCODER.folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_056_576
    pretrained._check_dinov2(default_cache() / ENCODER.folder)
