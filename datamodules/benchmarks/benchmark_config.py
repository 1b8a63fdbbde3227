"""Builds a benchmark from its YAML file: ``configs/benchmark/NAME.yaml``, or a file of the user."""

from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from datamodules.benchmarks.benchmark import Benchmark

_NOT_TOLD = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    'Parser key "benchmark"',
    "Expected a <class 'NoneType'>",
)
CONFIGS = Path(__file__).resolve().parents[2] / "configs/benchmark"


def load_benchmark(name: str) -> Benchmark:
    """Build a benchmark.

    Args:
        name: Name of a file in ``configs/benchmark`` without its ending, or path of a YAML file with ``class_path`` and
            ``init_args``.

    Raises:
        FileNotFoundError: There is no such benchmark.
        ValueError: The file is no YAML, or does not fit the class that it names.
    """
    path = config_path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML file ({_one_line(str(error))})") from error
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Benchmark, "benchmark", required=True)
    try:
        built = parser.instantiate_classes(parser.parse_object({"benchmark": settings}))
    except (ArgumentError, ValueError) as error:  # a ValueError of the class itself
        raise ValueError(f"{path} does not describe a benchmark: {_one_line(str(error))}") from error
    benchmark: Benchmark = built.benchmark
    return benchmark


def _one_line(message: str) -> str:
    """What is wrong, without the types that the parser tried and without the file's content."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    given = [line for line in lines if line.startswith("Given value: ")][:-1]  # the last one is all of the file
    told = [line for line in lines if line and not line.startswith(_NOT_TOLD)]
    return " ".join(told + given[:1])


def config_path(name: str) -> Path:
    """The YAML file of a benchmark.

    Raises:
        FileNotFoundError: There is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise FileNotFoundError(f"there is no file {name}")
        return Path(name)
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no benchmark {name!r}; choose one of {', '.join(benchmark_names())}, or give a YAML file"
        )
    return path


def benchmark_names() -> list[str]:
    """Names of the benchmarks in ``configs/benchmark``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
