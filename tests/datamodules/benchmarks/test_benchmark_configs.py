"""Every YAML in ``configs/benchmark`` builds its benchmark, and reads tiny files."""

from pathlib import Path

import pytest

from datamodules.benchmarks.benchmark_config import CONFIGS, benchmark_names, load_benchmark
from tests.datamodules.benchmarks.question_writer import WRITERS

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", benchmark_names())
def test_the_config_builds_its_benchmark(name: str) -> None:
    benchmark = load_benchmark(name)
    assert name.startswith(benchmark.folder)
    assert benchmark.most_items is None
    assert (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", WRITERS)
def test_the_config_reads_tiny_files(name: str, tmp_path: Path) -> None:
    benchmark = load_benchmark(name)
    WRITERS[name](tmp_path / benchmark.folder)
    items, _ = benchmark.read(tmp_path / benchmark.folder)
    assert items
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert item.is_labelled == (name != "egoschema")
        prompt = benchmark.prompt(item, [])
        assert item.question in prompt.text
        assert len(prompt.choices) == len(item.options) > 1


@pytest.mark.parametrize("name", sorted(set(benchmark_names()) - WRITERS.keys()))
def test_a_config_without_tiny_files_here_is_read_by_another_test(name: str) -> None:
    others = [path for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    assert any(f'"{name}"' in path.read_text(encoding="utf-8") for path in others)


def test_a_file_of_the_users_own_is_built_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = (CONFIGS / "table.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("folder: table", "folder: own"), encoding="utf-8")
    assert load_benchmark(str(path)).folder == "own"
    path.write_text(text.replace("folder: table", "fodler: own"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)own.yaml does not describe a benchmark.*fodler"):
        load_benchmark(str(path))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is no YAML file"):
        load_benchmark(str(path))
    with pytest.raises(FileNotFoundError, match=r"no benchmark 'nextqq'; choose one of .*nextqa"):
        load_benchmark("nextqq")
