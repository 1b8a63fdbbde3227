import copy
from typing import Any

import pytest

from components.checkpoints.settings_check import differing_settings

CONFIG: dict[str, Any] = {
    "model": {
        "encoder": {
            "class_path": "components.encoders.hugging_face.HuggingFaceVisionEncoder",
            "init_args": {"layer": -2},
        },
        "segmenter": {"class_path": "components.segmenters.fixed_length.FixedLength", "init_args": {"frames": 2}},
        "bridge": {
            "class_path": "components.bridges.recurrent.RecurrentMemoryBridge",
            "init_args": {
                "recurrence": "selective",
                "update_penalty": 0.03,
                "readout": "components.bridges.CacheReadout",
            },
        },
        "language_model": {
            "class_path": "components.language.causal.HuggingFaceCausalLM",
            "init_args": {"path": "lm", "dtype": "float32", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        },
        "optimization": {"learning_rates": {"bridge": "1e-3"}},
        "max_new_tokens": 16,
    },
    "data": {
        "pixels": {"size": 84, "fit": "crop"},
        "loading": {"batch_size": 2, "chat": {"date": "2024-07-26", "system_turns": "template"}},
        "train": [{"shards": "a.tar"}],
    },
    "trainer": {"max_steps": 10},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *keys, last = path.split(".")
    inner = config
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            "model.language_model.init_args.lora.alpha",
            64,
            "model.language_model.init_args.lora.alpha: 8 in the checkpoint, 64 now",
        ),
        ("model.language_model.init_args.lora", None, "model.language_model.init_args.lora: {"),
        ("model.encoder.init_args.layer", -1, "model.encoder.init_args.layer: -2 in the checkpoint, -1 now"),
        ("model.segmenter.init_args.frames", 3, "model.segmenter.init_args.frames: 2 in"),
        (
            "model.segmenter",
            {"class_path": "components.segmenters.uniform.Uniform"},
            "model.segmenter: FixedLength in the checkpoint, Uniform now",
        ),
        (
            "model.bridge.init_args.readout",
            {"class_path": "components.bridges.MemoryReadout"},
            "model.bridge.init_args.readout",
        ),
        ("model.bridge.init_args.recurrence", "replacing", "model.bridge.init_args.recurrence: selective in"),
        ("data.pixels.fit", "pad", "data.pixels.fit: crop in the checkpoint, pad now"),
        ("data.loading.chat.system_turns", "first_question", "data.loading.chat.system_turns: template in"),
        (
            "data.loading.chat.date",
            "2025-03-04",
            "data.loading.chat.date: 2024-07-26 in the checkpoint, 2025-03-04 now",
        ),
    ],
)
def test_setting_that_changes_what_weights_mean_is_named(path: str, value: Any, line: str) -> None:
    [found] = differing_settings(CONFIG, changed(path, value))
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.optimization.learning_rates", {"bridge": 1.0}),
        ("model.language_model.init_args.path", "elsewhere/lm"),
        ("model.language_model.init_args.dtype", "bfloat16"),
        ("model.language_model.init_args.lora.dropout", 0.0),
        ("model.bridge.init_args.update_penalty", 0.0),
        ("model.bridge.class_path", "components.moved.RecurrentMemoryBridge"),
        ("model.bridge.init_args.new_option", True),
        ("model.encoder.init_args.layer", "-2"),
        ("model.bridge.init_args.readout", {"class_path": "components.bridges.CacheReadout", "init_args": {}}),
        ("model.max_new_tokens", 3),
        ("model.initial_weights", "a.ckpt"),
        ("data.train", []),
        ("trainer.max_steps", 20),
    ],
)
def test_rates_schedules_folders_and_spelling_may_differ(path: str, value: Any) -> None:
    assert differing_settings(CONFIG, changed(path, value)) == []


@pytest.mark.parametrize("path", ["data.pixels", "data.loading.chat"])
def test_a_section_that_one_of_two_configs_lacks_is_no_difference(path: str) -> None:
    older = copy.deepcopy(CONFIG)
    *keys, last = path.split(".")
    inner = older
    for key in keys:
        inner = inner[key]
    del inner[last]
    assert differing_settings(older, CONFIG) == differing_settings(CONFIG, older) == []
