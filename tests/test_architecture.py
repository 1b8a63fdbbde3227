"""What the code base promises about its own shape, read from its syntax trees."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import components.interfaces
import datamodules.batch
import lightning_modules.evaluation.scoring

ROOT = Path(__file__).resolve().parent.parent
OWN = {"apps", "benchmarks", "components", "datamodules", "evaluate", "lightning_modules", "tests", "train"}
FORBIDDEN = {
    "components": OWN - {"components"} | {"lightning", "pytorch_lightning"},
    "datamodules": OWN - {"datamodules"},
    "lightning_modules": OWN - {"lightning_modules", "components"},
    "apps": {"tests", "benchmarks"},
    "benchmarks": {"tests"},
    "train.py": {"tests", "apps", "benchmarks"},
    "evaluate.py": {"tests", "apps", "benchmarks"},
}
# What the model reads and how conversations become ids is the same on both sides of the batch, so it is written once.
ALLOWED = {"datamodules": re.compile(r"components\.interfaces|components\.language\.chat\w*")}
PACKAGES = ["components", "datamodules", "lightning_modules", "apps", "benchmarks"]
LONGEST_FILE = 300
LONGEST_FUNCTION = 50
MOST_CONSTRUCTOR_ARGUMENTS = 10


def files(*places: str) -> list[Path]:
    """Python files of packages, or single files."""
    found = []
    for place in places:
        found += [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of everything that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            assert node.module is not None
            yield node.module


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def docstring_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's docstring: writing more of it should not call for splitting the function."""
    first = function.body[0]
    return 0 if ast.get_docstring(function) is None else (first.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("place", FORBIDDEN)
def test_imports_point_down_only(place: str) -> None:
    paths = files(place)
    assert paths, f"{place} holds no Python file"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(parse(path))
        if name.split(".")[0] in FORBIDDEN[place] and not (place in ALLOWED and ALLOWED[place].fullmatch(name))
    ]
    assert wrong == []


def test_all_own_packages_are_known_here() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(PACKAGES)


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(*PACKAGES)}
    assert len(lengths) > 30
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > LONGEST_FILE} == {}


def test_functions_stay_short() -> None:
    long = {}
    for path in files(*PACKAGES, "train.py", "evaluate.py"):
        for function in functions(parse(path)):
            length = (function.end_lineno or 0) - function.lineno + 1 - docstring_length(function)
            if length > LONGEST_FUNCTION:
                long[f"{path.relative_to(ROOT)}:{function.name}"] = length
    assert long == {}


def test_constructors_take_few_arguments() -> None:
    many = {}
    for path in files(*PACKAGES):
        for function in functions(parse(path)):
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
            if function.name == "__init__" and count > MOST_CONSTRUCTOR_ARGUMENTS:
                many[f"{path.relative_to(ROOT)}:{function.lineno}"] = count
    assert many == {}


def test_no_module_is_named_for_nothing() -> None:
    names = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in files(*PACKAGES) if names & {part.removesuffix(".py") for part in path.parts[-2:]}] == []


def test_a_stand_in_is_known_by_the_same_key_where_it_is_made_and_where_answers_are_judged() -> None:
    assert datamodules.batch.SKIPPED_KEY == lightning_modules.evaluation.scoring.SKIPPED_KEY


def test_batch_has_what_the_model_reads() -> None:
    read = {name for name in vars(components.interfaces.VideoTextBatch) if not name.startswith("_")}
    assert read == {"frames", "frame_counts", "frame_ms", "input_ids", "text_mask", "labels", "video_index"}
    assert read <= set(datamodules.batch.Batch._fields)
