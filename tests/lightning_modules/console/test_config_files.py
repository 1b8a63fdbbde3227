"""Several config files merge as on the command line of ``train.py``."""

from pathlib import Path

import pytest

import train
from datamodules.instruction import InstructionDataModule
from lightning_modules.console.config_files import read_config
from lightning_modules.console.settings_errors import SettingsError
from lightning_modules.video_language import VideoLanguageModule

SECTIONS = {"model": VideoLanguageModule}
FIRST = """
model:
  encoder: {class_path: components.encoders.cached.CachedFeatures, init_args: {dim: 8, num_patches: 4}}
  segmenter: {class_path: components.segmenters.fixed_length.FixedLength, init_args: {frames: 2}}
  bridge:
    class_path: components.bridges.recurrent.RecurrentMemoryBridge
    init_args: {num_memory: 3, width: 16, num_heads: 2}
  language_model: {class_path: components.language.causal.HuggingFaceCausalLM, init_args: {path: folder}}
  max_new_tokens: "${..data.longest}"
data: {longest: 4, sets: {a: 1}}
"""


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.yaml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_another_class_keeps_the_options_that_it_has(tmp_path: Path) -> None:
    overlay = "model: {bridge: {class_path: components.bridges.videollamb_bridge.VideoLLaMBBridge}}\n"
    bridge = read_config(write(tmp_path, FIRST, overlay), SECTIONS)["model"]["bridge"]
    assert bridge["class_path"].endswith(".VideoLLaMBBridge")
    assert bridge["init_args"] == {"num_memory": 3, "num_heads": 2}  # it has no width
    tokens = "model: {bridge: {init_args: {num_memory: 5}}}\n"
    bridge = read_config(write(tmp_path, FIRST, tokens), SECTIONS)["model"]["bridge"]
    assert bridge["init_args"] == {"num_memory": 5, "width": 16, "num_heads": 2}


def test_references_are_resolved_after_merging_and_reach_other_sections(tmp_path: Path) -> None:
    read = read_config(write(tmp_path, FIRST, "data: {longest: 9, sets: {b: 2}}\n"), SECTIONS)
    assert read["model"]["max_new_tokens"] == 9
    assert read["data"]["sets"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("model: {bridge: components.bridges.mean_pooling.MeenPooling}\n", "did you mean 'MeanPooling'"),
        ("model: {max_new_tokens: many}\n", "max_new_tokens: Expected a .*int.*many"),
        ("- a\n", "1.yaml holds a list, no settings"),
        ("model: [\n", "1.yaml, line 2, column 1 is no YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(overlay: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read_config(write(tmp_path, FIRST, overlay), SECTIONS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 4),
        (["--data.loading.budget.group_size", "8"], 8),
        (["--data.loading.budget.bundle", "2"], 2),
        (["--data.loading.budget.bundle=2"], 2),
        (["--data.loading.budget={max_frames: 99, bundle: 2}"], 2),
    ],
)
def test_the_earlier_name_of_the_group_size_can_be_overridden(
    options: list[str], expected: int, tmp_path: Path
) -> None:
    file = tmp_path / "earlier.yaml"
    file.write_text("data: {loading: {batch_size: null, budget: {max_frames: 99, bundle: 4}}}", encoding="utf-8")
    parts = ["-c", "configs/quickstart_pixels.yaml", "-c", str(file)]
    budget = train.parse(["fit", *parts, *options]).data.loading.budget
    assert budget.group_size == expected
    assert read_config([file], {"data": InstructionDataModule})["data"]["loading"]["budget"]["group_size"] == 4


def test_files_with_options_of_parts_that_pooled_give_the_pooling_of_the_model(tmp_path: Path) -> None:
    old = FIRST.replace("num_memory: 3", "patch_pooling: components.pooling.patch_pooling.ConvPooling, num_memory: 3")
    read = read_config(write(tmp_path, old), SECTIONS)["model"]
    assert read["patch_pooling"] == "components.pooling.patch_pooling.ConvPooling"
    assert "patch_pooling" not in read["bridge"]["init_args"]
    overlay = "model: {encoder: {init_args: {patch_grid: 2}}}\n"
    merged = read_config(write(tmp_path, old, overlay), SECTIONS)["model"]["patch_pooling"]
    assert merged["class_path"].endswith(".GridPooling")
    assert merged["init_args"]["grid"] == 2
    twice = old.replace(
        "components.encoders.cached.CachedFeatures, init_args: {dim: 8, num_patches: 4}",
        "components.encoders.hugging_face.HuggingFaceVisionEncoder, init_args: {path: folder, patch_grid: 2}",
    )
    with pytest.raises(SettingsError, match="pool the patches in different ways"):
        read_config(write(tmp_path, twice), SECTIONS)
