from lightning_modules.console.untrained_parts import untrained_parts

PRETRAINED = {"class_path": "components.language.causal.HuggingFaceCausalLM", "init_args": {"path": "folder"}}
BRIDGE = {"class_path": "components.bridges.mean_pooling.MeanPooling"}


def projector(weights: str | None) -> dict[str, object]:
    return {"class_path": "components.projectors.mlp.MlpProjector", "init_args": {"weights": weights}}


def test_single_reader_and_projector_without_weights_are_named() -> None:
    config = {"encoder": PRETRAINED, "language_model": PRETRAINED, "bridge": BRIDGE, "readers": None}
    assert untrained_parts(config) == ["bridge"]
    assert untrained_parts({**config, "projector": projector(None)}) == ["projector", "bridge"]
    assert untrained_parts({**config, "projector": projector("mm_projector.bin")}) == ["bridge"]


def test_readers_go_by_their_names() -> None:
    published = {"class_path": "x.Reader", "init_args": {"weights": "reader.safetensors"}}
    readers = {"memory": {"reader": BRIDGE, "reducer": None}, "frames": {"reader": published}}
    config = {"encoder": PRETRAINED, "language_model": PRETRAINED, "bridge": None, "readers": readers}
    assert untrained_parts(config) == ["memory"]
