import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.bridges.fusers import TransformerFuser
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.building import ReaderSettings
from components.checkpoints.exported_weights import ExportedWeights
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.losses import EverySegmentLoss
from components.model import VideoLanguageModel
from components.pooling.patch_pooling import GridPooling
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.pretrained.object_description import describe_arguments
from components.projectors.mlp import MlpProjector
from components.readers.fine_frames import FineFrames
from components.readers.token_store import TokenStore
from components.reducers.sequential import Sequential
from components.reducers.temporal_token_drop import TemporalTokenDrop
from components.segmenters.scene_tilling import SceneTilling
from components.selection.linspace_frames import LinspaceFrames
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_batch, make_bridge, make_model

LORA = LoraSettings(rank=2, alpha=4, target_modules=["q_proj", "v_proj"])
FORMS: dict[str, dict[str, Any]] = {
    "trained": {},
    "adapters": {"lora": LORA},
    "frozen": {"freeze": True},
    "random": {"weights": "random"},
    "random-adapters": {"weights": "random", "lora": LORA},
}


@pytest.fixture
def parts(folders: PartFolders, tmp_path: Path) -> PartFolders:
    """Copies of the parts that a test may change and delete."""
    copied = [shutil.copytree(path, tmp_path / "parts" / Path(path).name) for path in folders]
    return PartFolders(*map(str, copied))


def with_language_model(parts: PartFolders, **options: Any) -> VideoLanguageModel:
    """A model whose weights are not those of any file: what trains was trained."""
    model = make_model(parts, language_model=partial(HuggingFaceCausalLM, parts.language_model, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def moved_without_sources(folder: Path, parts: PartFolders) -> Path:
    """Move the folder, and delete all that it was made of."""
    shutil.rmtree(Path(parts.encoder).parent)
    return Path(shutil.move(folder, folder.with_name("moved")))


def assert_same_weights(one: VideoLanguageModel, other: VideoLanguageModel) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def assert_same(one: VideoLanguageModel, other: VideoLanguageModel, folders: PartFolders) -> None:
    assert_same_weights(one, other)
    batch = make_batch(folders)
    assert torch.equal(one(batch).loss, other(batch).loss)


@pytest.mark.parametrize("form", FORMS)
def test_a_copied_model_opens_anywhere_without_its_sources(
    form: str, folders: PartFolders, parts: PartFolders, tmp_path: Path
) -> None:
    model = with_language_model(parts, **FORMS[form])
    model.save_pretrained(tmp_path / "out")
    opened = VideoLanguageModel.from_pretrained(moved_without_sources(tmp_path / "out", parts))
    assert not opened.training
    assert_same(opened, model, folders)


@pytest.mark.parametrize("number", range(3))
def test_every_bridge_segmenter_and_schedule_is_in_the_folder(number: int, parts: PartFolders, tmp_path: Path) -> None:
    trained = tmp_path / "bridge.safetensors"
    options: dict[str, Any] = {"num_memory": 2, "num_heads": 2, "mlp_width": 8}
    save_file(VideoLLaMBBridge(32, 32, **options).state_dict(), trained)
    changes: dict[str, Any] = [
        {"bridge": partial(make_bridge, readout=partial(RetrievedReadout, num_queries=2), recurrence="selective")},
        {"bridge": partial(VideoLLaMBBridge, **options, weights=str(trained)), "segmenter": SceneTilling(k=1)},
        {"bridge": MeanPooling, "loss_schedule": EverySegmentLoss(), "frame_selection": LinspaceFrames(2)},
    ][number]
    model = make_model(parts, **changes)
    model.save_pretrained(tmp_path / "out")
    trained.unlink()
    opened = VideoLanguageModel.from_pretrained(moved_without_sources(tmp_path / "out", parts))
    assert_same_weights(opened, model)
    ours, theirs = describe_arguments(opened), describe_arguments(model)
    for name in ours.keys() - {"encoder", "language_model"}:  # whose paths differ
        if number != 1 or name != "readers":  # whose file of weights is gone
            assert ours[name] == theirs[name]


def test_several_readers_with_words_between_them_are_in_the_folder(folders: PartFolders, tmp_path: Path) -> None:
    reducer = partial(Sequential, reducers=[partial(TemporalTokenDrop, threshold=0.9)])
    readers = {
        "memory": ReaderSettings(make_bridge),
        "mean": ReaderSettings(MeanPooling, LinspaceFrames(2)),
        "frames": ReaderSettings(partial(FineFrames, num_frames=2)),
        "tokens": ReaderSettings(partial(TokenStore, max_tokens=50), reducer=reducer),
    }
    prompt = "which colour : <memory> <mean> shape <frames><tokens>"
    pooling = partial(GridPooling, grid=1)
    model = make_model(folders, bridge=None, readers=readers, visual_prompt=prompt, patch_pooling=pooling)
    model.save_pretrained(tmp_path / "out")
    opened = VideoLanguageModel.from_pretrained(tmp_path / "out")
    assert_same(opened, model, folders)
    assert list(opened.readers) == list(readers)


def test_a_grid_memory_with_its_options_and_fuser_is_in_the_folder(folders: PartFolders, tmp_path: Path) -> None:
    options = GridMemoryOptions(max_tokens=40, shown="last")
    memory = partial(
        GridMemory, num_cells=4, num_heads=2, options=options, fuser=partial(TransformerFuser, num_heads=2)
    )
    frames = partial(FineFrames, num_frames=2, projection="none", frame_positions=True, type_embedding=True)
    readers = {"memory": ReaderSettings(memory), "frames": ReaderSettings(frames)}
    model = make_model(folders, bridge=None, readers=readers, projector=MlpProjector)
    model.save_pretrained(tmp_path / "out")
    opened = VideoLanguageModel.from_pretrained(tmp_path / "out")
    assert_same(opened, model, folders)
    assert opened.readers["memory"].options == options


def test_opening_and_saving_again_changes_nothing(folders: PartFolders, parts: PartFolders, tmp_path: Path) -> None:
    model = with_language_model(parts, lora=LORA)
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "pad", None, 2.0, 8), 5, {"optimizer steps": 2})
    model.save_pretrained(tmp_path / "first")
    state = torch.get_rng_state()
    first = VideoLanguageModel.from_pretrained(tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), state)
    first.save_pretrained(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    second = VideoLanguageModel.from_pretrained(tmp_path / "second")
    assert_same(second, model, folders)
    assert second.training_facts == model.training_facts


def test_the_language_model_is_a_hugging_face_folder(parts: PartFolders, tmp_path: Path) -> None:
    for name, options in (("full", {}), ("lora", {"lora": LORA})):
        model = with_language_model(parts, **options)
        ids = torch.arange(5)[None]
        expected = model.language_model.model(ids).logits
        model.save_pretrained(tmp_path / name, merge_adapters=True)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / name / "language_model", dtype="float32").eval()
        torch.testing.assert_close(plain(ids).logits, expected)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "language_model")
        assert tokenizer.chat_template == model.language_model.tokenizer.chat_template
        opened = VideoLanguageModel.from_pretrained(tmp_path / name)
        torch.testing.assert_close(opened.language_model.model(ids).logits, expected)
        assert not any(".lora_" in parameter for parameter in opened.state_dict())


def test_weights_are_known_by_the_names_of_a_training_run(parts: PartFolders, tmp_path: Path) -> None:
    model = with_language_model(parts)
    model.save_pretrained(tmp_path / "out")
    weights = ExportedWeights(tmp_path / "out")
    for name, parameter in model.named_parameters():
        if f"model.{name}" in weights.left_out:
            assert not parameter.requires_grad
        else:
            assert torch.equal(weights.weight(f"model.{name}"), parameter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_opens_in_another_dtype(dtype: Any, folders: PartFolders, tmp_path: Path) -> None:
    model = make_model(folders)
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    batch = make_batch(folders)
    for opened in (
        VideoLanguageModel.from_pretrained(tmp_path / "full", dtype=dtype),
        VideoLanguageModel.from_pretrained(tmp_path / "half"),
    ):
        for name, parameter in opened.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name).to(getattr(torch, dtype))), name
        torch.testing.assert_close(opened(batch).loss, model(batch).loss, rtol=0.02, atol=0.0)
    again = VideoLanguageModel.from_pretrained(tmp_path / "half", dtype="float32")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_a_reference_needs_the_same_weights_at_the_same_path(
    folders: PartFolders, parts: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_language_model(parts, lora=LORA)
    model.save_pretrained(tmp_path / "out", frozen="reference")
    assert not list((tmp_path / "out").glob("*/"))
    monkeypatch.chdir(tmp_path / "parts")
    assert_same(VideoLanguageModel.from_pretrained(tmp_path / "out"), model, folders)
    shutil.move(parts.encoder, tmp_path / "other")
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*encoder\. .*written with frozen='reference'.*'encoder'"
    ):
        VideoLanguageModel.from_pretrained(tmp_path / "out")
    sources = {"encoder": str(tmp_path / "other")}
    assert_same(VideoLanguageModel.from_pretrained(tmp_path / "out", sources=sources), model, folders)
    weights = AutoModelForCausalLM.from_pretrained(parts.language_model)
    with torch.no_grad():
        weights.get_input_embeddings().weight.add_(1.0)
    weights.save_pretrained(parts.language_model)
    with pytest.raises(ValueError, match=r"frozen weights are not those that .*model\.language_model"):
        VideoLanguageModel.from_pretrained(tmp_path / "out", sources=sources)


def test_a_reference_to_the_hub_has_name_and_revision(
    folders: PartFolders, parts: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub/models--lab--dino/snapshots/abc123"
    shutil.copytree(parts.encoder, snapshot)
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None = None) -> str:
        asked.append((name, revision))
        if name != "lab/dino":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no such name")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = make_model(PartFolders(str(snapshot), parts.language_model))
    model.save_pretrained(tmp_path / "out", frozen="reference")
    sources = json.loads((tmp_path / "out/config.json").read_text())["sources"]
    assert sources[0] | {"keys": None} == {"keys": None, "as": "encoder", "name": "lab/dino", "revision": "abc123"}
    assert_same(VideoLanguageModel.from_pretrained(tmp_path / "out"), model, folders)
    assert asked == [("lab/dino", "abc123")]
    assert "lab/dino (abc123)" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(FileNotFoundError, match=r"'lab/nothing'.*no such name on the model hub can be reached"):
        VideoLanguageModel.from_pretrained("lab/nothing")


def test_a_model_with_a_part_that_cannot_be_described_leaves_no_folder(folders: PartFolders, tmp_path: Path) -> None:
    model = make_model(
        folders, bridge=partial(make_bridge, readout=lambda dim, out_dim: RetrievedReadout(dim, out_dim))
    )
    with pytest.raises(TypeError, match=r"model\..*readout is a function"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_without_a_package_that_quantises_name_the_package(
    bits: int, folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.language.load_options._is_installed", lambda package: False)
    make_model(folders).save_pretrained(tmp_path / "out")
    options: dict[str, Any] = {f"load_in_{bits}bit": True}
    with pytest.raises(ImportError, match=rf"load_in_{bits}bit needs .* pip install bitsandbytes"):
        VideoLanguageModel.from_pretrained(tmp_path / "out", **options)
    with pytest.raises(ImportError, match="device_map needs the package accelerate"):
        VideoLanguageModel.from_pretrained(tmp_path / "out", device_map="auto")
    with pytest.raises(ValueError, match="choose one"):
        VideoLanguageModel.from_pretrained(tmp_path / "out", load_in_8bit=True, load_in_4bit=True)


def test_a_device_map_places_the_language_model(folders: PartFolders, tmp_path: Path) -> None:
    model = with_language_model(folders, lora=LORA)
    model.save_pretrained(tmp_path / "out")
    opened = VideoLanguageModel.from_pretrained(tmp_path / "out", device_map={"": "cpu"})
    assert_same(opened, model, folders)
