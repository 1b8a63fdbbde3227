"""Every YAML in ``configs/niavh`` runs on a tiny model, with a smaller grid."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.segmenters.fixed_length import FixedLength
from datamodules.haystack.haystack_benchmark import planned_video
from membridge.evaluation.item_answers import AskingSettings
from membridge.haystack_test.backgrounds import MadeBackground
from membridge.haystack_test.haystack_config import CONFIGS, haystack_config_path, load_haystack_test
from membridge.haystack_test.haystack_run import HaystackRun
from membridge.haystack_test.heat_map import heat_map
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

FILES = ("hours.yaml", "published.yaml", "quick.yaml", "quickstart.yaml", "training.yaml", "vnbench.yaml")
NAMES = [file.removesuffix(".yaml") for file in FILES]


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, segmenter=FixedLength(2))
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=1.0), 1)
    return built


def smaller(name: str, folder: Path) -> Path:
    """The config with its shortest length, two depths and at most one control."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    arguments = settings["init_args"]
    grid = arguments["grid"]
    grid |= {"lengths_s": [min(grid["lengths_s"])], "depths": [0, 1], "videos_per_cell": 1}
    grid["controls"] = min(1, grid["controls"])
    # The tiny language model reads 256 tokens, and its tokenizer has one for every letter.
    arguments["chosen_by"] = "text"
    (folder / "smaller.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "smaller.yaml"


def test_every_file_is_tested_here() -> None:
    assert tuple(sorted(path.name for path in CONFIGS.glob("*.yaml"))) == FILES


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_asked_and_drawn(name: str, model: VideoLanguageModel, tmp_path: Path) -> None:
    benchmark = load_haystack_test(smaller(name, tmp_path))
    items = benchmark.read().items
    lines = HaystackRun(benchmark, items, MadeBackground(), tmp_path, {}, AskingSettings(0)).lines(model)
    assert [line.get("error") for line in lines.values()] == [None] * len(items)
    maps = heat_map(items, lines)["scorers"]["likelihood"]
    assert list(maps) == list(benchmark.tasks)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_complete(name: str) -> None:
    assert load_haystack_test(haystack_config_path(name)).read().items


def test_the_published_grid_has_40_lengths_and_12_depths() -> None:
    cells = {planned_video(item).cell for item in load_haystack_test(haystack_config_path("published")).read().items}
    lengths = {cell.duration_ms for cell in cells}
    assert (len(lengths), min(lengths), max(lengths)) == (40, 1000, 320_000)
    assert len({cell.depth for cell in cells if cell.depth is not None}) == 12


def test_vnbench_has_150_videos_of_every_task_and_kind_and_asks_all_orders() -> None:
    benchmark = load_haystack_test(haystack_config_path("vnbench"))
    items = benchmark.read().items
    groups = {item.group: (item.labels["task"], item.labels["needle"]) for item in items}
    kinds = list(groups.values())
    assert {kind: kinds.count(kind) for kind in kinds} == {
        (task, needle): 150 for task in ("retrieval", "order", "count") for needle in ("caption", "picture", "clip")
    }
    assert len(items) == 4 * len(groups)


def test_what_is_no_haystack_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no haystack test 'other'; choose one of hours, "):
        haystack_config_path("other")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "class_path: datamodules.haystack.haystack_benchmark.HaystackBenchmark\ninit_args: {tasks: [find]}\n"
    )
    with pytest.raises(ValueError, match=r"wrong\.yaml does not describe a benchmark"):
        load_haystack_test(wrong)
