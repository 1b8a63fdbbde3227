"""The complete visual path of the Memory-Augmented VLM: from pixels to what the language model reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.parity.memory_ov.stub_parts import RecordingLanguageModel
from benchmarks.parity.memory_ov.visual_path import Recording, batch_of, build_model
from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.language.splice import SplicedInputs

GOLDENS = Path(__file__).parents[1] / "goldens" / "memory_augmented_vlm"
META: dict[str, Any] = json.loads((GOLDENS / "meta.json").read_text(encoding="utf-8"))["assembly"]
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith(("n100", "n352")) else ()) for name in META["cases"]
]
FRAMES_LEFT_OUT = frozenset({"frames"})


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(load_file(GOLDENS / "assembly.safetensors"), META)


def read_by_language_model(
    recording: Recording, lengths: list[int], left_out: frozenset[str] = frozenset()
) -> SplicedInputs:
    model = build_model(recording)
    model(batch_of(recording, lengths), left_out=left_out)
    assert isinstance(model.language_model, RecordingLanguageModel)
    return model.language_model.read


def row(read: SplicedInputs, number: int) -> Tensor:
    return read.embeddings[number][read.mask[number]]


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_the_language_model_reads_what_it_reads_in_the_original(name: str, recording: Recording) -> None:
    frames, _, kind = name.removeprefix("n").partition(".")
    read = read_by_language_model(recording, [int(frames)], FRAMES_LEFT_OUT if kind == "dropped" else frozenset())
    case, tensors = META["cases"][name], recording.tensors
    assert len(row(read, 0)) == case["length"]
    assert int((read.labels != IGNORED_LABEL).sum()) == case["labels_kept"]
    rows = tensors[f"{name}.rows"].long()
    # Fused attention: its exponential is approximated. With explicit attention the difference is below 1e-5.
    torch.testing.assert_close(row(read, 0)[rows], tensors[f"{name}.values"], rtol=0, atol=5e-5)


@pytest.mark.slow
@torch.no_grad()
def test_videos_of_different_length_are_read_in_a_batch_as_alone(recording: Recording) -> None:
    lengths = [3, 33, 1]
    together = read_by_language_model(recording, lengths)
    for number, length in enumerate(lengths):
        alone = read_by_language_model(recording, [length])
        torch.testing.assert_close(row(together, number), row(alone, 0), rtol=1e-5, atol=1e-5)
        assert torch.equal(together.labels[number][together.mask[number]], alone.labels[0])


@torch.no_grad()
def test_without_frames_their_words_and_newline_are_left_out_too(recording: Recording) -> None:
    full, dropped = (row(read_by_language_model(recording, [2], out), 0) for out in (frozenset[str](), FRAMES_LEFT_OUT))
    state, (first_words, second_words) = recording.state(), META["prompts"]
    num_memory = state["recurrent_memory_transformer.initial_memory"].shape[:2].numel()
    placeholder = int((recording.tensors["in.input_ids"] == VIDEO_PLACEHOLDER).nonzero())
    stays = placeholder + len(first_words) + num_memory + 1
    goes = len(second_words) + 2 * 196 + 1
    assert torch.equal(dropped, torch.cat([full[:stays], full[stays + goes :]]))
    assert torch.equal(full[stays - 1], state["image_newline"])
    assert torch.equal(full[stays + goes - 1], state["image_newline"])


@pytest.mark.slow
def test_gradients_reach_every_part_that_trains(recording: Recording) -> None:
    model = build_model(recording)
    model(batch_of(recording, [33]))
    assert isinstance(model.language_model, RecordingLanguageModel)
    model.language_model.read.embeddings.pow(2).sum().backward()  # type: ignore[no-untyped-call]
    without = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == []
