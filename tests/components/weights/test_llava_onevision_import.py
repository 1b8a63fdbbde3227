"""Every layout of LLaVA-OneVision's files gives the same parts; what does not fit is refused before writing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.checkpoints.atomic_folder import unfinished_path
from components.checkpoints.weight_files import WeightFiles
from components.language.causal import HuggingFaceCausalLM
from components.weights.llava_onevision import main
from tests.components.tiny_language import SIZES
from tests.components.tiny_onevision import (
    LAYOUTS,
    PIXELS,
    ROPE_THETA,
    VISION_FACTS,
    Layout,
    changed_copy,
    make_onevision,
    original_tensors,
    save_onevision,
    write_own_parts,
)

PARTS = ("vision_encoder", "projector.safetensors", "newline.safetensors", "language_model")
TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_onevision(make_onevision(seed=1), tmp_path_factory.mktemp("source"), "original")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def equal_parts(folder: Path, other: Path, *, left_out: tuple[str, ...] = ()) -> None:
    for part in PARTS:
        ours, expected = WeightFiles(folder / part), WeightFiles(other / part)
        assert ours.keys() == expected.keys() - set(left_out), part
        assert all(torch.equal(ours[name], expected[name]) for name in ours), part


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_parts(layout: Layout, tied: bool, tmp_path: Path) -> None:
    model = make_onevision(seed=2, tied=tied)
    write_own_parts(model, tmp_path / "expected")
    save_onevision(model, tmp_path / "source", layout, max_shard_size="20KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts"), *VISION_FACTS])
    equal_parts(tmp_path / "parts", tmp_path / "expected", left_out=("lm_head.weight",) if tied else ())
    language = HuggingFaceCausalLM(str(tmp_path / "parts" / "language_model"))
    head, embeddings = (each.weight for each in (language.model.lm_head, language.model.get_input_embeddings()))
    assert (head is embeddings) == tied
    assert language.model.config.rope_parameters["rope_theta"] == ROPE_THETA
    assert language.model.generation_config.eos_token_id == SIZES["eos_token_id"]


def test_pickled_weights_are_read(original: Path, tmp_path: Path) -> None:
    main(["import", str(original), str(tmp_path / "expected"), *VISION_FACTS])
    torch.save(load_file(original / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((original / "config.json").read_bytes())
    main(["import", str(tmp_path), str(tmp_path / "parts"), *VISION_FACTS])
    equal_parts(tmp_path / "parts", tmp_path / "expected")


def test_pixel_settings_are_those_of_the_checkpoint_else_those_of_siglip(original: Path, tmp_path: Path) -> None:
    save_onevision(make_onevision(), tmp_path / "source")
    other = PIXELS | {"image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps(other))
    for name, source in {"own": tmp_path / "source", "published": original}.items():
        main(["import", str(source), str(tmp_path / name), "--part", "vision_encoder", *VISION_FACTS])
        settings = read_json(tmp_path / name / "vision_encoder" / "preprocessor_config.json")
        assert settings["size"] == PIXELS["size"]
        assert settings["image_mean"] == ([0.1, 0.2, 0.3] if name == "own" else [0.5, 0.5, 0.5])
        assert not (tmp_path / name / "language_model").exists()


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_read(original: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(NotADirectoryError, match="parts is a file, but the parts need a folder: choose another path"):
        main(["import", str(original), str(tmp_path / "parts"), *VISION_FACTS])
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_an_import_leaves_another_one_beside_it_alone_and_replaces_what_was_left_of_its_own(
    original: Path, tmp_path: Path
) -> None:
    other, own = (unfinished_path(tmp_path / name) for name in ("other", "parts"))
    for folder in (other, own):
        folder.mkdir()
        (folder / "half").write_text("half")
    main(["import", str(original), str(tmp_path / "parts"), *VISION_FACTS])
    assert (other / "half").is_file()
    assert not own.exists()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(PARTS)


def test_template_of_a_processor_is_replaced_because_it_shows_no_plain_text(original: Path, tmp_path: Path) -> None:
    source = changed_copy(original, tmp_path / "source", lambda tensors: None)
    of_lists = (
        "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    (source / "chat_template.jinja").write_text(of_lists)
    main(["import", str(source), str(tmp_path / "parts"), "--part", "language_model"])
    chat = HuggingFaceCausalLM(str(tmp_path / "parts" / "language_model")).tokenizer
    text = chat.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_damaged_tokenizer_is_refused_and_nothing_is_written(original: Path, tmp_path: Path) -> None:
    source = changed_copy(original, tmp_path / "source", lambda tensors: None)
    (source / "tokenizer.json").write_text("none")
    with pytest.raises(ValueError, match="the tokenizer's files cannot be read"):
        main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_the_original_never_reads_is_left_out_and_named(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        deleted = {name: each for name, each in tensors.items() if name.startswith(f"{TOWER}encoder.layers.2.")}
        tensors |= {name.replace("layers.2.", "layers.3."): each.clone() for name, each in deleted.items()}
        tensors[f"{TOWER}head.probe"] = torch.zeros(1, 1, 24)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)

    main(["import", str(original), str(tmp_path / "expected"), *VISION_FACTS])
    source = changed_copy(original, tmp_path / "source", add)
    capsys.readouterr()
    main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    equal_parts(tmp_path / "parts", tmp_path / "expected")
    printed = capsys.readouterr().out
    assert re.search(r"never used: \S*layers\.3\.\S+ and 15 more \(only the first 3 layers", printed)
    assert f"never used: {TOWER}head.probe (" in printed
    assert "inv_freq (computed)" in printed


def without_layer(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.1.mlp.")]:
        del tensors[name]


def with_stranger(tensors: dict[str, Tensor]) -> None:
    tensors["model.vision_resampler.query"] = torch.zeros(4, 2)


def with_other_shape(tensors: dict[str, Tensor]) -> None:
    tensors["model.mm_projector.2.bias"] = torch.zeros(31)


def with_a_twin(tensors: dict[str, Tensor]) -> None:
    tensors["image_newline"] = torch.zeros(32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_layer, r"3 missing tensors, 0 unknown.*\n  missing tensor model\.layers\.1\.mlp\.\w+_proj\.weight \["),
        (with_stranger, r"0 missing tensors, 1 unknown.*\n  unknown tensor model\.vision_resampler\.query \[4, 2\]"),
        (with_other_shape, r"1 of another shape.*\n  model\.mm_projector\.2\.bias has shape \[31\], expected \[32\]"),
        (with_a_twin, r"image_newline and (model\.)?image_newline are the same tensor of newline"),
    ],
)
def test_differences_are_printed_and_nothing_is_written(
    change: Callable[[dict[str, Tensor]], None], message: str, original: Path, tmp_path: Path
) -> None:
    source = changed_copy(original, tmp_path / "source", change)
    with pytest.raises(ValueError, match=message):
        main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_missing_tensor_of_all_layers_takes_one_line_in_the_names_of_the_layout(tmp_path: Path) -> None:
    source = save_onevision(make_onevision(), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    kept = {name: each for name, each in tensors.items() if "language_model.model.layers" not in name}
    save_file(kept, source / "model.safetensors")
    line = r"\n  missing tensor language_model\.model\.layers\.\{0-1\}\.mlp\.up_proj\.weight \[48, 32\] \(2 tensors\)"
    with pytest.raises(ValueError, match=line):
        main(["import", str(source), str(tmp_path / "parts")])


def test_differences_may_be_allowed_by_name(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        with_stranger(tensors)
        del tensors[f"{TOWER}post_layernorm.bias"]

    source = changed_copy(original, tmp_path / "source", change)
    allowed = ["--allow-missing", "*post_layernorm.bias", "--allow-unknown", "model.vision_resampler.*"]
    main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS, *allowed])
    printed = capsys.readouterr().out
    assert f"missing, allowed: {TOWER}post_layernorm.bias" in printed
    assert "left out, unknown: model.vision_resampler.query" in printed
    assert "post_layernorm.bias" not in WeightFiles(tmp_path / "parts" / "vision_encoder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "another model than LLaVA-OneVision: LlavaLlamaForCausalLM"),
        ({"mm_projector_type": "linear"}, "with projector linear"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "vision tower openai/clip"),
    ],
)
def test_other_models_of_the_authors_are_refused(
    settings: dict[str, Any], message: str, original: Path, tmp_path: Path
) -> None:
    source = changed_copy(original, tmp_path / "source", lambda tensors: None, **settings)
    with pytest.raises(ValueError, match=message):
        main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy 'default' instead of 'full'"),
        ({"vision_feature_layer": [-1, -2]}, r"features of layer \[-1, -2\] of 3"),
        ({"model_type": "llava_next"}, "model_type 'llava_next'"),
        ({"text_config": {"model_type": "llama"}}, "a language model 'llama' instead of 'qwen2'"),
    ],
)
def test_other_models_of_transformers_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = save_onevision(make_onevision(), tmp_path / "source")
    config = read_json(source / "config.json") | settings
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        main(["import", str(source), str(tmp_path / "parts")])


def test_settings_of_the_tower_that_nothing_shows_must_be_given(original: Path, tmp_path: Path) -> None:
    message = r"width 24, 729 patches of 2 pixels; heads unknown, layers unknown, image size unknown.*--vision-heads"
    with pytest.raises(ValueError, match=message):
        main(["import", str(original), str(tmp_path / "parts")])
    with pytest.raises(ValueError, match="image size unknown"):
        main(["import", str(original), str(tmp_path / "parts"), *VISION_FACTS[:-1], "384"])


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "other"])
def test_a_stored_output_layer_counts_where_the_config_ties_it(equal: bool, tmp_path: Path) -> None:
    """A published config says that the output layer is the embeddings, and the file has one all the same."""
    model = make_onevision(seed=3, tied=True)
    source = save_onevision(model, tmp_path / "source", "original")
    tensors = original_tensors(model)
    head = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"] = head if equal else head + 1
    save_file(tensors, source / "model.safetensors")
    main(["import", str(source), str(tmp_path / "parts"), *VISION_FACTS])
    language = HuggingFaceCausalLM(str(tmp_path / "parts" / "language_model")).model
    assert torch.equal(language.lm_head.weight, tensors["lm_head.weight"])
    assert (language.lm_head.weight is language.get_input_embeddings().weight) == equal


def test_other_parts_in_the_folder_stay(original: Path, tmp_path: Path) -> None:
    (tmp_path / "parts" / "newline.safetensors").mkdir(parents=True)
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    for part in ("newline", "projector"):
        main(["import", str(original), str(tmp_path / "parts"), "--part", part])
    assert (tmp_path / "parts" / "notes.txt").read_text() == "mine"
    found = {path.name for path in (tmp_path / "parts").iterdir()}
    assert found == {"notes.txt", "newline.safetensors", "projector.safetensors"}
    assert not list(tmp_path.glob(".*"))


def test_weights_are_cast_on_request(original: Path, tmp_path: Path) -> None:
    main(["import", str(original), str(tmp_path / "parts"), *VISION_FACTS, "--dtype", "bfloat16"])
    for part in PARTS:
        stored = WeightFiles(tmp_path / "parts" / part)
        assert {stored[name].dtype for name in stored} == {torch.bfloat16}
    assert read_json(tmp_path / "parts" / "language_model" / "config.json")["dtype"] == "bfloat16"
