"""The parity command on other forms of what is no bridge, derived from the recordings of the original."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.parity.__main__ import compare_folder, describe
from benchmarks.parity.comparison import CaseResult
from benchmarks.parity.projectors import projector_cases

GOLDENS = Path(__file__).parent / "goldens"


def projector_folder(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A copy of what the other projectors need; what its JSON file and its tensor file hold."""
    for name in ("bridge_t16.safetensors", "bridge_weights.safetensors"):
        shutil.copyfile(GOLDENS / name, tmp_path / name)
    recorded = json.loads((GOLDENS / "other_projectors.json").read_text())
    return recorded, load_file(GOLDENS / "other_projectors.safetensors")


def projector_results(folder: Path, recorded: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, CaseResult]:
    (folder / "other_projectors.json").write_text(json.dumps(recorded))
    save_file(tensors, folder / "other_projectors.safetensors")
    return {result.name.removeprefix("other projector "): result for result in projector_cases(folder)}


@pytest.mark.parametrize("mode", ["average", "max"])
def test_windows_that_do_not_divide_the_grid_are_compared(mode: str, tmp_path: Path) -> None:
    recorded, tensors = projector_folder(tmp_path)
    case = recorded["cases"][f"spatial_pool.{mode}"] | {"stride": 3, "mode": mode}
    recorded["cases"] = {"of another name": case}
    patches = load_file(tmp_path / "bridge_t16.safetensors")["features_int8"][0, :2, 1:].float() / 32
    planes = patches.transpose(1, 2).unflatten(2, (16, 16))
    pool = torch.nn.AvgPool2d(3) if mode == "average" else torch.nn.MaxPool2d(3)
    tensors["of another name.out"] = pool(planes).flatten(2).transpose(1, 2).contiguous()
    (result,) = projector_results(tmp_path, recorded, tensors).values()
    assert not result.failed, describe(result)


def test_a_wrong_kernel_fails_the_learned_pooling_only(tmp_path: Path) -> None:
    recorded, tensors = projector_folder(tmp_path)
    tensors["spatial_pool.conv.weights.pool.weight"] *= 1.1
    results = projector_results(tmp_path, recorded, tensors)
    assert {name for name, result in results.items() if result.failed} == {"spatial_pool.conv"}


def test_projectors_that_are_not_known_fail_with_the_reason(tmp_path: Path) -> None:
    recorded, tensors = projector_folder(tmp_path)
    recorded["cases"]["retriever"]["cls"] = "Stranger"
    recorded["cases"]["spatial_pool.max"]["mode"] = "median"
    recorded["cases"]["rmt_t16"]["input"] = "noise"
    results = projector_results(tmp_path, recorded, tensors)
    failed = {name: describe(result) for name, result in results.items() if result.failed}
    assert failed.keys() == {"retriever", "spatial_pool.max", "rmt_t16"}
    assert "Stranger is not one that this command can compare" in failed["retriever"]
    assert "pooling by 'median' is not one that this command can compare" in failed["spatial_pool.max"]
    assert "its input 'noise' is not understood" in failed["rmt_t16"]


def test_a_projector_on_several_videos_is_declined(tmp_path: Path) -> None:
    recorded, tensors = projector_folder(tmp_path)
    features = load_file(tmp_path / "bridge_t16.safetensors")["features_int8"]
    save_file({"features_int8": features.view(2, 8, *features.shape[2:])}, tmp_path / "bridge_t16.safetensors")
    result = projector_results(tmp_path, recorded, tensors)["rmt_t16"]
    assert "declined  other projector rmt_t16: the original joins the 2 videos" in describe(result)


def test_clips_that_are_stored_as_whole_numbers_are_compared(tmp_path: Path) -> None:
    recorded = json.loads((GOLDENS / "scene_tiling.json").read_text())
    tensors = load_file(GOLDENS / "scene_tiling.safetensors")
    recorded["cases"] = {"onehot_t16_2cuts": recorded["cases"]["onehot_t16_2cuts"]}
    features = tensors.pop("onehot_t16_2cuts.features")
    tensors["onehot_t16_2cuts.features_int8"] = (features * 32).to(torch.int8)
    (tmp_path / "scene_tiling.json").write_text(json.dumps(recorded))
    save_file(tensors, tmp_path / "scene_tiling.safetensors")
    (result,) = compare_folder(tmp_path)
    assert not result.failed, describe(result)


def languagebind_results(folder: Path, case: dict[str, Any], tensors: dict[str, Tensor]) -> CaseResult:
    recorded = json.loads((GOLDENS / "languagebind.json").read_text())
    recorded["cases"] = {"variant": recorded["cases"]["video_t8"] | case}
    (folder / "languagebind.json").write_text(json.dumps(recorded))
    save_file({f"variant.{key}": value for key, value in tensors.items()}, folder / "languagebind.safetensors")
    shutil.copyfile(
        GOLDENS / "languagebind_video_weights.safetensors", folder / "languagebind_video_weights.safetensors"
    )
    (result,) = compare_folder(folder)
    return result


def video_t8() -> dict[str, Tensor]:
    stored = load_file(GOLDENS / "languagebind.safetensors")
    return {key.removeprefix("video_t8."): value for key, value in stored.items() if key.startswith("video_t8.")}


def test_an_encoder_of_another_depth_brings_its_settings_and_weights(tmp_path: Path) -> None:
    weights = load_file(GOLDENS / "languagebind_video_weights.safetensors")
    save_file(
        {key: each for key, each in weights.items() if "layers.2." not in key}, tmp_path / "two_layers.safetensors"
    )
    settings = json.loads((GOLDENS / "languagebind.json").read_text())["vision_config"] | {"num_hidden_layers": 2}
    tensors = {
        key: value for key, value in video_t8().items() if key not in ("hidden_states.3_every3rd", "pooler_output")
    }
    case = {"vision_config": settings, "weights": "two_layers.safetensors"}
    result = languagebind_results(tmp_path, case, tensors)
    assert len(result.checks) == 3
    assert not result.failed, describe(result)


def test_several_videos_are_compared_where_windows_hold_frames_of_one_and_declined_elsewhere(tmp_path: Path) -> None:
    twice = {key: torch.cat([value, value]) for key, value in video_t8().items()}
    case = {"hidden_states_shape": [2, 8, 17, 64]}
    assert not (result := languagebind_results(tmp_path, case, twice)).failed, describe(result)
    shorter = twice | {"pixel_int8": twice["pixel_int8"][:, :, :4].contiguous()}
    declined = languagebind_results(tmp_path, case, shorter)
    assert "declined  languagebind variant: the original lets windows of 8 frames span" in describe(declined)
