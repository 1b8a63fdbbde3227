"""Callbacks ask a module through its contract, and refuse one that does not have it."""

from typing import Any

import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_modules.interfaces import TrainingModule, as_training_module
from lightning_modules.optimization.freezing import Freezing
from lightning_modules.video_language import VideoLanguageModule


def test_the_module_of_this_project_has_the_contract() -> None:
    assert issubclass(VideoLanguageModule, TrainingModule)
    assert not VideoLanguageModule.__abstractmethods__


def test_a_module_of_another_kind_is_refused_by_the_callbacks_name() -> None:
    trainer: Any = None
    with pytest.raises(TypeError, match=r"Freezing works with a VideoLanguageModule.*got a BoringModel: leave"):
        Freezing().on_train_start(trainer, BoringModel())
    with pytest.raises(TypeError, match="got a BoringModel"):
        as_training_module(BoringModel(), asked_by=trainer)
