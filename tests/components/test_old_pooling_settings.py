import copy
import logging
from typing import Any

import pytest
import yaml

from components.old_pooling_settings import with_model_pooling

ENCODER = "components.encoders.hugging_face.HuggingFaceVisionEncoder"
PUBLISHED = "components.bridges.videollamb_bridge.VideoLLaMBBridge"
RECURRENT = "components.bridges.recurrent.RecurrentMemoryBridge"
POOLING = "components.pooling.patch_pooling"


def config(text: str) -> Any:
    return yaml.safe_load(text)


def grid(side: int) -> dict[str, Any]:
    return {"class_path": f"{POOLING}.GridPooling", "init_args": {"grid": side}}


@pytest.mark.parametrize(
    ("part", "pooling"),
    [
        (f"encoder: {{class_path: {ENCODER}, init_args: {{patch_grid: 3, layer: 2}}}}", grid(3)),
        ("encoder: {init_args: {patch_grid: 3}}", grid(3)),
        (f"bridge: {{class_path: {PUBLISHED}, init_args: {{pool_grid: 12}}}}", grid(12)),
        (f"bridge: {{init_args: {{patch_pooling: {POOLING}.ConvPooling}}}}", f"{POOLING}.ConvPooling"),
        (
            f"bridge: {{class_path: {RECURRENT}, init_args: {{patch_pooling: {{class_path: {POOLING}.ConvPooling}}}}}}",
            {"class_path": f"{POOLING}.ConvPooling"},
        ),
    ],
)
def test_an_old_option_becomes_the_pooling_of_the_model(part: str, pooling: Any) -> None:
    model = with_model_pooling(config(f"model: {{{part}}}"))["model"]
    assert model["patch_pooling"] == pooling
    left = yaml.safe_dump({name: value for name, value in model.items() if name != "patch_pooling"})
    assert "pool" not in left
    assert "grid" not in left


def test_other_settings_stay_as_they_are() -> None:
    now = config(f"model: {{encoder: {{class_path: {ENCODER}, init_args: {{layer: 2}}}}, patch_pooling: null}}")
    strangers = config("model: {bridge: {class_path: mine.Bridge, init_args: {pool_grid: 3, patch_pooling: 4}}}")
    for settings in (now, strangers, config("data: {train: []}"), ["a list"], None):
        before = copy.deepcopy(settings)
        assert with_model_pooling(settings) == before


def test_options_that_pool_nothing_disappear_from_a_complete_config(caplog: pytest.LogCaptureFixture) -> None:
    text = "model: {encoder: {init_args: {patch_grid: null}}, bridge: {init_args: {patch_pooling: null}}"
    expected = {"encoder": {"init_args": {}}, "bridge": {"init_args": {}}, "language_model": {}}
    with caplog.at_level(logging.WARNING):
        assert with_model_pooling(config(text + ", language_model: {}}")) == {"model": expected}
        assert not caplog.records
        with_model_pooling(config(text + "}"))  # one of several files, which may have switched a pooling off
    assert "model.encoder.init_args.patch_grid: null has no effect any more" in caplog.text


def test_a_pooling_of_one_part_counts_beside_none_of_the_other() -> None:
    text = "model: {encoder: {init_args: {patch_grid: 3}}, bridge: {init_args: {patch_pooling: null}}}"
    assert with_model_pooling(config(text))["model"]["patch_pooling"] == grid(3)


def test_two_different_poolings_are_refused_and_two_equal_ones_are_one() -> None:
    text = "model: {{encoder: {{init_args: {{patch_grid: 6}}}}, bridge: {{init_args: {{pool_grid: {}}}}}}}"
    assert with_model_pooling(config(text.format(6)))["model"]["patch_pooling"] == grid(6)
    with pytest.raises(
        ValueError, match=r"encoder.init_args.patch_grid and model.bridge.init_args.pool_grid pool .* once"
    ):
        with_model_pooling(config(text.format(3)))
    both = config(f"model: {{encoder: {{init_args: {{patch_grid: 6}}}}, patch_pooling: {POOLING}.ConvPooling}}")
    with pytest.raises(ValueError, match=r"patch_grid and model\.patch_pooling pool"):
        with_model_pooling(both)


def test_a_pooling_with_weights_keeps_the_training_settings_of_its_bridge() -> None:
    text = "model: {{bridge: {{init_args: {{patch_pooling: {}}}}}, optimization: {{learning_rates: {{bridge: 0.1}}, "
    text += "averages: {{bridge: 0.9}}, weight_decay: 0.5}}}}"
    trained = with_model_pooling(config(text.format(f"{POOLING}.ConvPooling")))["model"]["optimization"]
    assert trained["learning_rates"] == {"bridge": 0.1, "patch_pooling": 0.1}
    assert trained["averages"] == {"bridge": 0.9, "patch_pooling": 0.9}
    assert trained["weight_decay"] == 0.5
    fixed = with_model_pooling(config(text.format(f"{POOLING}.WindowPooling")))["model"]["optimization"]
    assert fixed["learning_rates"] == {"bridge": 0.1}


def test_a_pooling_with_weights_begins_with_the_weights_of_its_bridge() -> None:
    text = "model: {{bridge: {{init_args: {{patch_pooling: {}}}}}, initial_weights: {}}}"
    begun = with_model_pooling(config(text.format(f"{POOLING}.ConvPooling", "{bridge: run.ckpt}")))["model"]
    assert begun["initial_weights"] == {"bridge": "run.ckpt", "patch_pooling": "run.ckpt"}
    complete = with_model_pooling(config(text.format(f"{POOLING}.ConvPooling", "run.ckpt")))["model"]
    assert complete["initial_weights"] == "run.ckpt"
    weightless = with_model_pooling(config(text.format(f"{POOLING}.WindowPooling", "{bridge: run.ckpt}")))["model"]
    assert weightless["initial_weights"] == {"bridge": "run.ckpt"}
