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


def test_newline_vector_without_weights_is_named() -> None:
    newline = {"class_path": "components.newline.Newline", "init_args": {"weights": None, "freeze": False}}
    config = {"encoder": PRETRAINED, "language_model": PRETRAINED, "bridge": BRIDGE, "newline": newline}
    assert untrained_parts(config) == ["newline", "bridge"]
    trained = {**newline, "init_args": {"weights": "newline.safetensors"}}
    assert untrained_parts({**config, "newline": trained}) == ["bridge"]
    assert untrained_parts({**config, "newline": None}) == ["bridge"]


def test_frames_that_are_shown_as_they_are_need_no_training_and_those_with_a_type_do() -> None:
    options = {"projection": "none", "type_embedding": False, "weights": None}
    frames = {"class_path": "components.readers.fine_frames.FineFrames", "init_args": options}
    config = {"encoder": PRETRAINED, "language_model": PRETRAINED, "readers": {"frames": {"reader": frames}}}
    assert untrained_parts(config) == []
    options["type_embedding"] = True
    assert untrained_parts(config) == ["frames"]
    options["weights"] = "frames.safetensors"
    assert untrained_parts(config) == []
