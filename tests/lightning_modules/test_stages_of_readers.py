"""A run of several readers begins with the weights of other runs, reader by reader, and names its parts in errors."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import train
from components.model import VideoLanguageModel
from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import make_part_folders
from tests.fixtures_streams import RATES_OF_STREAMS, with_streams
from tests.fixtures_training import write_run_config


class Runs(NamedTuple):
    """Configs of a run with one reader and of one with two, and what they trained."""

    config_of_one: Path
    config_of_two: Path
    one: VideoLanguageModel
    two: VideoLanguageModel
    checkpoint_of_one: Path
    checkpoint_of_two: Path


def fit(config: Path, name: str, rate: float = 0.01, **model: Any) -> tuple[VideoLanguageModel, Path]:
    """Train a step; the model and its checkpoint."""
    settings = yaml.safe_load(config.read_text())
    rates = settings["model"]["optimization"]["learning_rates"]
    settings["model"]["optimization"]["learning_rates"] = dict.fromkeys(rates, rate)
    settings["model"] |= model
    settings["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}
    settings["trainer"]["logger"]["init_args"]["name"] = name
    path = config.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    built = train.main(["fit", "-c", str(path)]).model.built
    return built, config.parent / name / "version_0/checkpoints/final.ckpt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    shard = str(write_shard(folder / "shard.tar", make_samples(3)))
    config = write_run_config(
        folder, make_part_folders(folder), dict.fromkeys(("train", "validation", "predict"), shard)
    )
    (one, checkpoint_of_one), config_of_two = fit(config, "one"), with_streams(config)
    two, checkpoint_of_two = fit(config_of_two, "two")
    return Runs(config, config_of_two, one, two, checkpoint_of_one, checkpoint_of_two)


def assert_same_weights(part: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = dict(other.named_parameters())
    assert expected
    for name, weight in part.named_parameters():
        torch.testing.assert_close(weight, expected[name])


def test_order_of_the_readers_is_that_of_the_config_in_the_checkpoint_too(runs: Runs) -> None:
    """It is the order of the streams where visual_prompt does not name one."""
    stored = yaml.safe_load((runs.checkpoint_of_two / "config.yaml").read_text())
    assert list(runs.two.readers) == list(stored["model"]["readers"]) == ["memory", "frames"]


def test_readers_begin_with_the_readers_of_these_names(runs: Runs) -> None:
    parts = dict.fromkeys(("memory", "frames", "reducers"), str(runs.checkpoint_of_two))
    began, _ = fit(runs.config_of_two, "again", 1e-12, initial_weights=parts)
    for part in parts:
        assert_same_weights(began.get_submodule(part), runs.two.get_submodule(part))


def test_memory_among_several_readers_begins_with_the_only_reader_of_another_run_and_the_other_way_round(
    runs: Runs,
) -> None:
    parts = {"memory": str(runs.checkpoint_of_one)}
    began, _ = fit(runs.config_of_two, "second", 1e-12, initial_weights=parts)
    assert_same_weights(began.readers["memory"], runs.one.bridge)
    began, _ = fit(runs.config_of_one, "back", 1e-12, initial_weights={"bridge": str(runs.checkpoint_of_two)})
    assert_same_weights(began.bridge, runs.two.readers["memory"])


def test_reader_that_did_not_train_there_is_refused_by_name(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"has no weights of model\.frames.* it has weights of \['model\.bridge', "):
        fit(runs.config_of_two, "wrong", initial_weights={"frames": str(runs.checkpoint_of_one)})
    with pytest.raises(ValueError, match=r"names the parts \['bridge'\]; the model has .*'frames', .*'memory'"):
        fit(runs.config_of_two, "wrong", initial_weights={"bridge": str(runs.checkpoint_of_one)})


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"bridge": 1e-3}, r"learning_rates names \['bridge'\], but only .*'frames', .*'memory', 'reducers'\]"),
        ({"frames": None}, r"part 'frames' has \d+ trainable tensors but no learning rate; add 'frames'"),
    ],
)
def test_learning_rates_go_by_the_names_of_the_readers(
    runs: Runs, rates: dict[str, float | None], message: str
) -> None:
    given = {name: rate for name, rate in {**RATES_OF_STREAMS, **rates}.items() if rate is not None}
    with pytest.raises(ValueError, match=message):
        fit(runs.config_of_two, "rates", optimization={"learning_rates": given})
