"""Opens the settings of a haystack test: ``configs/niavh/NAME.yaml``, or a file of the user."""

from pathlib import Path

from datamodules.benchmarks.benchmark_config import load_benchmark
from datamodules.haystack.haystack_benchmark import HaystackBenchmark

CONFIGS = Path(__file__).resolve().parents[2] / "configs/niavh"


def haystack_config_path(name: str) -> Path:
    """The YAML file of a haystack test.

    Args:
        name: Name of a file in ``configs/niavh`` without its ending, or path of a YAML file.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"there is no haystack test {name!r}; choose one of {known}, or give a YAML file")
    return path


def load_haystack_test(path: Path) -> HaystackBenchmark:
    """Build the test that a YAML file describes.

    Raises:
        ValueError: The file is no YAML, describes something else, or its needles do not fit its videos.
    """
    benchmark = load_benchmark(str(path))
    if not isinstance(benchmark, HaystackBenchmark):
        raise ValueError(f"{path} describes a {type(benchmark).__name__}; a haystack test is a HaystackBenchmark")
    return benchmark
