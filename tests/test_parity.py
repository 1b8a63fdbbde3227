import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.parity.__main__ import compare_folder, describe, main
from benchmarks.parity.comparison import CaseResult, Check, largest_error, relative_error, run_case

GOLDENS = Path(__file__).parent / "goldens"
Results = dict[str, CaseResult]


def recorded_names() -> set[str]:
    """Names of all cases that the JSON files of the goldens hold."""
    recorded = {path.stem: json.loads(path.read_text()) for path in GOLDENS.glob("*.json")}
    bridge = recorded.pop("bridge")
    names = {*bridge["cases"], *bridge["gradients"]}
    titles = {"other_projectors": "other projector", "scene_tiling": "scene_tilling"}  # the file keeps its earlier name
    return names | {f"{titles.get(stem, stem)} {name}" for stem in recorded for name in recorded[stem]["cases"]}


@pytest.fixture(scope="module")
def results() -> Results:
    return {result.name: result for result in compare_folder(GOLDENS)}


def bridge_folder(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of some of the bridge's recordings that a test may spoil, and what its JSON file says."""
    for path in GOLDENS.glob("bridge*"):
        shutil.copyfile(path, tmp_path / path.name)
    recorded = json.loads((tmp_path / "bridge.json").read_text())
    (tmp_path / "bridge.json").write_text(json.dumps(recorded))
    return tmp_path, recorded


def results_of(folder: Path, recorded: dict[str, Any]) -> Results:
    (folder / "bridge.json").write_text(json.dumps(recorded))
    return {result.name: result for result in compare_folder(folder)}


@pytest.mark.parametrize("name", sorted(recorded_names()))
def test_our_parts_reproduce_the_original(name: str, results: Results) -> None:
    assert not results[name].failed, describe(results[name])
    assert results[name].declined is None


def test_no_recorded_case_is_left_out(results: Results) -> None:
    assert results.keys() == recorded_names()


def test_the_recordings_stay_small() -> None:
    assert sum(path.stat().st_size for path in GOLDENS.rglob("*") if path.is_file()) < 6_000_000


def test_every_stored_bridge_output_is_compared(results: Results) -> None:
    inputs = {"features_int8", "features_cls_int8", "features_patches_int8"}
    tensors = load_file(GOLDENS / "bridge_t16.safetensors")
    stored = {key: tensor.numel() for key, tensor in tensors.items() if key not in inputs}
    assert stored.items() <= {check.what: check.values for check in results["bridge_t16"].checks}.items()
    assert len(results["bridge_t16_grad"].checks) > 50


def test_every_stored_output_of_the_other_projectors_is_compared(results: Results) -> None:
    given = (".weights.", "retriever.memory", "retriever.cache", "retent.")
    stored = load_file(GOLDENS / "other_projectors.safetensors").keys()
    outputs = {name for name in stored if not any(part in name for part in given)}
    compared = {
        f"{name.removeprefix('other projector ')}.{check.what}"
        for name, result in results.items()
        for check in result.checks
    }
    assert outputs == compared & stored


def test_a_wrong_weight_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = bridge_folder(tmp_path)
    weights = load_file(folder / "bridge_weights.safetensors")
    weights["retrieval.layers.0.crossattention.v_proj.bias"] += 1e-2
    save_file(weights, folder / "bridge_weights.safetensors")
    assert main(["--goldens", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok        bridge_t1:")  # an image does not retrieve
    assert lines[1].startswith("FAILED    bridge_t16:")
    assert lines[-1] == "1 within tolerance, 2 failed, 0 declined"


def test_a_sound_folder_gives_status_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = bridge_folder(tmp_path)
    assert main(["--goldens", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "3 within tolerance, 0 failed, 0 declined" in printed
    counts = [int(each.replace(",", "")) for each in re.findall(r"comparisons of ([\d,]+) values\)", printed)]
    assert len(counts) == 3
    assert f"{sum(counts):,} recorded values were compared" in printed
    assert "nothing was compared of scene_tiling.json, languagebind.json, other_projectors.json" in printed


def test_several_videos_fused_into_one_are_declined_by_name(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    recorded["cases"] = {"fused": {**recorded["cases"]["bridge_t16"], "file": "fused.safetensors"}}
    recorded["gradients"] = {}
    save_file({"features_int8": torch.zeros(2, 4, 257, 64, dtype=torch.int8)}, folder / "fused.safetensors")
    result = results_of(folder, recorded)["fused"]
    assert not result.failed
    assert "declined  fused: the original joins the 2 videos" in describe(result)


def test_other_boundaries_than_recorded_fail(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    recorded["cases"]["bridge_t16"]["boundaries"] = [1, 5, 8, 15]
    assert results_of(folder, recorded)["bridge_t16"].failed


def test_where_the_original_broke_a_tie_its_cuts_are_taken(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    case = recorded["cases"]["bridge_t16"]
    case |= {"boundaries": [0, 5, 7, 15], "topk_margin": 0.0}
    checks = {check.what: check for check in results_of(folder, recorded)["bridge_t16"].checks}
    assert checks["boundaries [0, 5, 7, 15]"].passed
    assert not checks["memory.0"].passed  # recorded for other cuts


@pytest.mark.parametrize("is_batch", [False, True], ids=["matrix", "batch"])
def test_a_given_memory_is_used_as_the_original_does(is_batch: bool, tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    learned = load_file(folder / "bridge_weights.safetensors")["projector.read_memory_emb"].float()
    case = recorded["cases"]["bridge_t16"]
    tensors = load_file(folder / "bridge_t16.safetensors")
    # A matrix is added to the learned memory, a batch of matrices takes its place.
    tensors["read_memories_in"] = learned[None] if is_batch else torch.zeros_like(learned)
    case["read_memories"] = list(tensors["read_memories_in"].shape)
    save_file(tensors, folder / "bridge_t16.safetensors")
    assert not results_of(folder, recorded)["bridge_t16"].failed


def test_rounded_outputs_get_the_wider_tolerance(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    tensors = load_file(folder / "bridge_t16.safetensors")
    tensors["hidden.3_every8th"] = tensors["hidden.3_every8th"].half()
    save_file(tensors, folder / "bridge_t16.safetensors")
    recorded["cases"]["bridge_t16"]["half_precision_keys"] = ["hidden.3_every8th"]
    result = results_of(folder, recorded)["bridge_t16"]
    assert not result.failed
    assert 1e-4 < max(check.error for check in result.checks) < 3e-3


def test_unknown_tensors_and_missing_files_fail_their_case_only(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    save_file(
        {"stranger": torch.ones(1)} | load_file(folder / "bridge_t1.safetensors"), folder / "bridge_t1.safetensors"
    )
    (folder / "bridge_t16_grad.safetensors").unlink()
    results = results_of(folder, recorded)
    assert {name: result.failed for name, result in results.items()} == {
        "bridge_t1": True,
        "bridge_t16": False,
        "bridge_t16_grad": True,
    }
    assert "stranger" in describe(results["bridge_t1"])


def test_a_recording_with_some_outputs_compares_these_and_one_with_none_fails(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    tensors = load_file(folder / "bridge_t16.safetensors")
    some = {name: tensors[name] for name in ("features_int8", "memory.3")}
    save_file(some, folder / "bridge_t16.safetensors")
    checks = results_of(folder, recorded)["bridge_t16"].checks
    assert [check.values for check in checks if check.what == "memory.3"] == [tensors["memory.3"].numel()]
    save_file({"features_int8": tensors["features_int8"]}, folder / "bridge_t16.safetensors")
    without = results_of(folder, recorded)["bridge_t16"]
    assert without.failed
    assert "the recording has no output, so there is nothing to compare" in describe(without)


def test_patches_of_the_frames_that_are_read_are_enough(tmp_path: Path) -> None:
    folder, recorded = bridge_folder(tmp_path)
    case = recorded["cases"]["bridge_t16"]
    tensors = load_file(folder / "bridge_t16.safetensors")
    features = tensors.pop("features_int8")
    tensors["features_cls_int8"] = features[:, :, 0].contiguous()
    tensors["features_patches_int8"] = features[:, :, 1:].contiguous()
    save_file(tensors, folder / "bridge_t16.safetensors")
    assert not results_of(folder, recorded)["bridge_t16"].failed
    tensors["features_patches_int8"][:, 15] = 0
    save_file(tensors, folder / "bridge_t16.safetensors")
    assert case["frame_indices"][-1][-1] == 15
    assert results_of(folder, recorded)["bridge_t16"].failed


def test_a_json_file_that_nothing_reads_is_declined(tmp_path: Path) -> None:
    (tmp_path / "audio.json").write_text("{}")
    (result,) = compare_folder(tmp_path)
    assert describe(result) == "declined  audio.json: no section of this program reads it"


def test_a_folder_without_recordings_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--goldens", str(tmp_path)]) == 1
    assert "no recordings in" in capsys.readouterr().err


def test_a_case_that_compares_nothing_fails() -> None:
    result = run_case("empty", list)
    assert result.failed
    assert describe(result) == "FAILED    empty: nothing was compared"


def test_other_shapes_and_nan_count_as_infinite_errors() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    for error in (largest_error, relative_error):
        assert error(one, one) == 0.0
        assert error(nan, one) == error(torch.ones(3), one) == float("inf")
    assert not Check("x", float("inf"), 1.0).passed
