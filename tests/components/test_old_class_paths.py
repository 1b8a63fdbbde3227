"""A config may name a class by the path that it had in an earlier version."""

import inspect
import logging
import pkgutil

import pytest

import lightning_modules  # noqa: F401  imports torchvision in the order that it needs
from components import old_class_paths
from components.old_class_paths import NEW_CLASS_PATHS, with_new_class_paths

OLD = "components.gather.LinspaceFrames"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_class_paths, "_warned_of", set())


@pytest.mark.parametrize("path", NEW_CLASS_PATHS.values())
def test_every_new_path_is_that_of_a_class(path: str) -> None:
    assert inspect.isclass(pkgutil.resolve_name(path))
    assert path not in NEW_CLASS_PATHS


@pytest.mark.parametrize("text", ["{}", "{{class_path: {}, init_args: {{a: 1}}}}", "- {}\n", "--model.x={}", '"{}"'])
def test_an_old_path_is_replaced_wherever_it_is_in_a_config(text: str) -> None:
    assert with_new_class_paths(text.format(OLD)) == text.format(NEW_CLASS_PATHS[OLD])


@pytest.mark.parametrize("text", [f"{OLD}Twice", f"{OLD}.a", f"my.{OLD}", f"runs/{OLD}", "components.gather"])
def test_a_longer_name_is_left_alone(text: str) -> None:
    assert with_new_class_paths(text) == text


def test_one_warning_names_the_new_paths(caplog: pytest.LogCaptureFixture) -> None:
    other = "components.pooling.ConvPooling"
    with caplog.at_level(logging.WARNING):
        with_new_class_paths(f"{OLD} {other} {OLD}")
        with_new_class_paths(OLD)
    [message] = caplog.messages
    assert f"{OLD} is now {NEW_CLASS_PATHS[OLD]}; {other} is now {NEW_CLASS_PATHS[other]}" in message
