"""Imported LLaVA-OneVision models compute what transformers' own model computes, for videos."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlavaOnevisionForConditionalGeneration

from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.model import VideoLanguageModel, text_of
from components.weights.llava_onevision import main
from tests.components.tiny_language import row_of
from tests.components.tiny_onevision import (
    FEATURE_LAYER,
    VISION_FACTS,
    build_from_parts,
    logits_of,
    make_onevision,
    random_frames,
    save_onevision,
    transformers_inputs,
    videos_batch,
)
from tests.config_models import CONFIGS

VIDEOS = [random_frames(2, seed=1), random_frames(1, seed=2), random_frames(3, seed=3)]
ROWS = [(0, "which colour ?", "red"), (1, "what is shown ?", "blue and green"), (2, "how many ?", "two")]
Pair = tuple[VideoLanguageModel, LlavaOnevisionForConditionalGeneration]


@pytest.fixture(scope="module", params=[("published", False), ("original", True)], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    layout, tied = request.param
    theirs = make_onevision(seed=4, tied=tied)
    folder = tmp_path_factory.mktemp(layout)
    save_onevision(theirs, folder / "source", layout)
    main(["import", str(folder / "source"), str(folder / "parts"), *VISION_FACTS])
    return build_from_parts(folder / "parts"), theirs


def test_logits_of_videos_are_those_of_transformers(pair: Pair) -> None:
    ours, theirs = pair
    batch = videos_batch(ours, VIDEOS, ROWS)
    for row, logits in enumerate(logits_of(ours, batch)):
        with torch.no_grad():
            expected = theirs(**transformers_inputs(row_of(text_of(batch), row), VIDEOS[row])).logits[0]
        assert expected.abs().max() > 1
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_losses_of_videos_are_those_of_transformers(pair: Pair) -> None:
    ours, theirs = pair
    text = text_of(videos_batch(ours, VIDEOS[:1], ROWS[:1]))
    inputs = transformers_inputs(row_of(text, 0), VIDEOS[0])
    labels = torch.full_like(inputs["input_ids"], IGNORED_LABEL)
    num_after = text.labels.shape[1] - 1 - int((text.input_ids[0] == VIDEO_PLACEHOLDER).nonzero())
    labels[:, -num_after:] = text.labels[:, -num_after:]
    with torch.no_grad():
        loss = ours(videos_batch(ours, VIDEOS[:1], ROWS[:1])).loss
        expected = theirs(**inputs, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)


def test_answers_about_videos_are_those_of_transformers(pair: Pair) -> None:
    ours, theirs = pair
    batch = videos_batch(ours, VIDEOS, [(video, question, None) for video, question, _ in ROWS])
    answers = ours.generate(batch, max_new_tokens=12)
    chat = ours.language_model.chat
    for row, answer in enumerate(answers):
        inputs = transformers_inputs(row_of(text_of(batch), row), VIDEOS[row])
        generated = theirs.generate(**inputs, do_sample=False, max_new_tokens=12, eos_token_id=list(chat.stop_ids))
        assert answer == chat.decode(generated[0, inputs["input_ids"].shape[1] :].tolist())
    assert len(set(answers)) > 1


def test_a_vision_tower_that_is_read_before_its_last_layer(tmp_path: Path) -> None:
    theirs = make_onevision(seed=5)
    theirs.config.vision_feature_layer = -2
    save_onevision(theirs, tmp_path / "source")
    main(["import", str(tmp_path / "source"), str(tmp_path / "parts")])
    ours = build_from_parts(tmp_path / "parts")
    batch = videos_batch(ours, VIDEOS[:1], ROWS[:1])
    with torch.no_grad():
        expected = theirs(**transformers_inputs(row_of(text_of(batch), 0), VIDEOS[0])).logits[0]
    torch.testing.assert_close(logits_of(ours, batch)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", ["0.5b", "7b"])
def test_configs_read_the_layer_that_is_compared_here(size: str) -> None:
    settings = yaml.safe_load((CONFIGS / f"model/memory_ov_{size}.yaml").read_text(encoding="utf-8"))["model"]
    assert settings["encoder"]["init_args"]["layer"] == FEATURE_LAYER
    assert settings["patch_pooling"]["init_args"] == {"grid": 14, "reduction": "bilinear"}
