"""The parity command on recordings of the Memory-Augmented VLM code, and on derived ones of other sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.bridge.original_grid_memory import run_segments
from benchmarks.parity.__main__ import compare_folder, describe, main
from benchmarks.parity.comparison import CaseResult, every_nth
from benchmarks.parity.memory_ov.recurrence import recurrence_cases
from benchmarks.parity.memory_ov.visual_path import Recording
from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.weights.memory_ov_names import memory_names

GOLDENS = Path(__file__).parents[1] / "goldens" / "memory_augmented_vlm"
PREFIX = "recurrent_memory_transformer."
LONG_VIDEO = "n352.full"  # takes several seconds alone
Results = dict[str, CaseResult]


def folder_without_long_video(folder: Path) -> Path:
    """A copy of the recordings, without the longest video, that a test may spoil."""
    for path in GOLDENS.iterdir():
        shutil.copyfile(path, folder / path.name)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["assembly"]["cases"][LONG_VIDEO]
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = folder_without_long_video(tmp_path_factory.mktemp("recordings"))
    return {result.name: result for result in compare_folder(folder)}


def meta_of_memory() -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((GOLDENS / "meta.json").read_text())["memory"]
    return meta


@pytest.mark.slow
def test_all_recordings_are_reproduced(results: Results) -> None:
    failed = [describe(result) for result in results.values() if result.failed]
    assert not failed
    families = (
        "memory",
        "temporal encoding",
        "visual path",
        "fuser",
        "pooling",
        "uniform_segment",
        "segment",
        "frame_",
    )
    for family in families:
        assert any(name.startswith(family) and result.checks for name, result in results.items()), family


@pytest.mark.slow
def test_only_what_the_original_does_not_use_or_raises_is_declined(results: Results) -> None:
    declined = {name: result.declined for name, result in results.items() if result.declined is not None}
    for name, reason in declined.items():
        assert len(str(reason)) > 40, name
    known = (
        "frame scores",
        "learn.out3_idx",
        "too_large, negative",
        "uniform_segment with a shorter segment",
        "adjusted_segment",
        "segment T1",
        "segment T2",
        "segment T3_k3",
        "train_frame_sampling",
    )
    assert [name for name in declined if not any(part in name for part in known)] == []


@pytest.mark.slow
def test_every_stored_output_of_the_memory_is_compared(results: Results) -> None:
    stored = load_file(GOLDENS / "memory_depth2.safetensors")
    outputs = [name.split(".") for name in stored if not name.startswith("state.")]
    wanted = {f"{sequence}.{kind}.{int(every_nth(number)[0])}" for sequence, kind, number in outputs}
    compared = {check.what for check in results["memory depth2, all sequences in one batch"].checks}
    assert wanted <= compared


def test_another_limit_of_the_cache_than_recorded_fails() -> None:
    meta = meta_of_memory() | {"cache_limit": 9}
    results = {result.name: result for result in recurrence_cases(GOLDENS, meta)}
    assert results["memory depth2 b"].failed
    assert not results["memory depth2 c"].failed


def test_a_wrong_weight_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("memory_inputs.safetensors", "memory_depth2.safetensors"):
        shutil.copyfile(GOLDENS / name, tmp_path / name)
    tensors = load_file(tmp_path / "memory_depth2.safetensors")
    tensors["state.memory_update_attention.v_proj.bias"] += 1e-2
    save_file(tensors, tmp_path / "memory_depth2.safetensors")
    meta = meta_of_memory()
    (tmp_path / "meta.json").write_text(json.dumps({"memory": meta}))
    assert main(["--goldens", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAILED    memory depth2 b:") for line in lines)
    assert any(line.startswith("ok        memory depth2 c:") for line in lines)  # one segment: no update
    assert any(line.startswith("declined  assembly: the folder has no assembly.safetensors") for line in lines)


def test_a_sequence_without_outputs_fails_and_the_others_are_compared(tmp_path: Path) -> None:
    shutil.copyfile(GOLDENS / "memory_inputs.safetensors", tmp_path / "memory_inputs.safetensors")
    tensors = load_file(GOLDENS / "memory_depth2.safetensors")
    save_file({name: each for name, each in tensors.items() if name[0] != "c"}, tmp_path / "memory_depth2.safetensors")
    meta = meta_of_memory()
    results = {result.name: result for result in recurrence_cases(tmp_path, meta)}
    assert "the recording has no output of sequence c" in describe(results["memory depth2 c"])
    assert not results["memory depth2 b"].failed
    stored = [each for name, each in tensors.items() if name[0] == "b"]
    assert results["memory depth2 b, original form"].values == sum(each.numel() for each in stored)


def test_weights_that_our_memory_does_not_have_fail_with_their_name(tmp_path: Path) -> None:
    shutil.copyfile(GOLDENS / "memory_inputs.safetensors", tmp_path / "memory_inputs.safetensors")
    tensors = load_file(GOLDENS / "memory_depth2.safetensors") | {"state.gate": torch.ones(1)}
    save_file(tensors, tmp_path / "memory_depth2.safetensors")
    meta = meta_of_memory()
    first = next(recurrence_cases(tmp_path, meta))
    assert "our grid memory has no tensor for recurrent_memory_transformer.gate" in describe(first)


def make_recordings(folder: Path, *, depth: int, heads: int, cache_limit: int) -> dict[str, Any]:
    """Recordings of other sizes, made by the original form; returns what ``meta.json`` would say of them."""
    lengths = {"x": [3, 1, 2, 2], "y": [4], "z": [1, 5]}
    torch.manual_seed(depth)
    reader = GridMemory(
        24,
        24,
        num_cells=4,
        num_memory=3,
        depth=depth,
        num_heads=heads,
        cache_limit=cache_limit,
        fuser=None,
        options=GridMemoryOptions(frame_positions=False, type_embedding=False),
    )
    inputs = {
        f"{name}.segment.{number:02d}": torch.randn(length, 4, 24)
        for name, own in lengths.items()
        for number, length in enumerate(own)
    }
    state = reader.state_dict()
    theirs = {ours: name.removeprefix(PREFIX) for name, ours in memory_names(depth).items()}
    stored = {f"state.{theirs[name]}": tensor for name, tensor in state.items()}
    described: dict[str, Any] = {}
    for name, own in lengths.items():
        steps = run_segments(reader, [inputs[f"{name}.segment.{number:02d}"] for number in range(len(own))])
        for number, step in enumerate(steps):
            stored[f"{name}.memory.{number:02d}"] = step.memory.detach().view(3, 4, 24)
        loss = torch.cat([step.memory for step in steps[-cache_limit:]]).pow(3).mean()
        reader.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = {
            theirs[each]: None if p.grad is None else p.grad.norm().item() for each, p in reader.named_parameters()
        }
        caches = [list(range(max(0, last + 1 - cache_limit), last + 1)) for last in range(len(own))]
        described[name] = {
            "cache_after_segment": caches,
            "cache_cat_shape": [3 * len(caches[-1]), 4, 24],
            "loss_mean_cube": loss.item(),
            "grad_norms": norms,
        }
    save_file(inputs, folder / "memory_inputs.safetensors")
    save_file(stored, folder / f"memory_depth{depth}.safetensors")
    sizes = {"heads": heads, "cache_limit": cache_limit, "ln_eps": 1e-12, "sequences": lengths}
    return sizes | {f"depth{depth}": described}


@pytest.mark.parametrize(("depth", "heads", "cache_limit"), [(1, 2, 3), (3, 6, 2), (2, 1, 1)])
def test_recordings_of_other_sizes_are_read_from_their_files(
    depth: int, heads: int, cache_limit: int, tmp_path: Path
) -> None:
    meta = make_recordings(tmp_path, depth=depth, heads=heads, cache_limit=cache_limit)
    results = list(recurrence_cases(tmp_path, meta))
    assert len(results) == 3 * 3 + 2
    assert [describe(result) for result in results if result.failed] == []
    others = meta | {"heads": 3}
    assert any(result.failed for result in recurrence_cases(tmp_path, others))


def test_pixels_of_long_videos_follow_the_recorded_formula() -> None:
    tensors = {"in.pixels_u8": torch.full((2, 3, 2, 2), 255, dtype=torch.uint8)}
    recording = Recording(tensors, {"long_pixel_formula": "sin(0.5 f + 2 c + 0.25 y x + 3), float64 then float32"})
    assert torch.equal(recording.pixels(2), torch.ones(2, 3, 2, 2))
    pixels = recording.pixels(4)
    assert pixels.shape == (4, 3, 2, 2)
    expected = torch.tensor(0.5 * 3 + 2 * 2 + 0.25 * 1 * 1 + 3, dtype=torch.float64).sin().float()
    assert pixels[3, 2, 1, 1] == expected
