"""What the code base promises about its own shape, read from its syntax trees."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import components.interfaces
import datamodules.batch
import lightning_modules.evaluation.scoring
from tests.import_graph import circles, import_graph, upward

ROOT = Path(__file__).resolve().parent.parent
OWN = {
    "apps",
    "benchmarks",
    "components",
    "datamodules",
    "evaluate",
    "lightning_modules",
    "membridge",
    "tests",
    "train",
}
FORBIDDEN = {
    "components": OWN - {"components"} | {"lightning", "pytorch_lightning"},
    "datamodules": OWN - {"datamodules"},
    "lightning_modules": OWN - {"lightning_modules", "components"},
    "membridge": OWN - {"membridge", "components", "datamodules"} | {"lightning", "pytorch_lightning"},
    "apps": {"tests", "benchmarks"},
    "benchmarks": {"tests"},
    "train.py": {"tests", "apps", "benchmarks"},
    "evaluate.py": {"tests", "benchmarks"},
}
# What the model reads and how conversations become ids is the same on both sides of the batch, so it is written once.
ALLOWED = {
    "datamodules": re.compile(r"components\.interfaces|components\.language\.chat\w*|components\.pictures\.tile_grid")
}
PACKAGES = ["components", "datamodules", "lightning_modules", "membridge", "apps", "benchmarks"]
LONGEST_FILE = 300
LONGEST_FUNCTION = 50
MOST_CONSTRUCTOR_ARGUMENTS = 10
MOST_FILES_IN_DATAMODULES = 10
# A folder's own page and its command; and the contracts of a package, which mean the same in each.
SHARED_NAMES = {"__init__.py", "__main__.py", "interfaces.py"}


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


def test_no_file_imports_the_script_evaluate_because_another_package_has_its_name() -> None:
    paths = files(*PACKAGES, "tests", "train.py", "evaluate.py")
    assert [path for path in paths if any(name.split(".")[0] == "evaluate" for name in imported(parse(path)))] == []


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
            # Their arguments are the parts of a model, as the keys of ``model`` in a config.
            is_config = path.name in {"video_language.py", "model.py"}
            if function.name == "__init__" and count > MOST_CONSTRUCTOR_ARGUMENTS and not is_config:
                many[f"{path.relative_to(ROOT)}:{function.lineno}"] = count
    assert many == {}


def test_no_module_is_named_for_nothing() -> None:
    names = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in files(*PACKAGES) if names & {part.removesuffix(".py") for part in path.parts[-2:]}] == []


def test_no_two_modules_share_a_name() -> None:
    paths = defaultdict(list)
    for path in files("components", "datamodules", "lightning_modules", "membridge", "apps"):
        if path.name not in SHARED_NAMES:
            paths[path.name].append(str(path.relative_to(ROOT)))
    assert len(paths) > 200
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and those for type checkers count."""
    assert circles(import_graph()) == []


def test_no_two_folders_need_each_other() -> None:
    assert upward(import_graph()) == {}


def test_a_circle_and_two_folders_that_need_each_other_are_found(tmp_path: Path) -> None:
    for name, text in {
        "components/low/first.py": "from components.low import second\n",
        "components/low/second.py": "if TYPE_CHECKING:\n    import components.low.first\n",
        "components/high/third.py": "def late():\n    from components.low.second import x\n",
        "components/low/fourth.py": "import components.high.third\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    graph = import_graph(tmp_path)
    assert circles(graph) == [["components.low.first", "components.low.second"]]
    assert upward(graph, tmp_path)["components"] == [["components.high", "components.low"]]


def test_few_files_are_directly_in_datamodules() -> None:
    directly = [path.name for path in (ROOT / "datamodules").glob("*.py") if path.name != "__init__.py"]
    assert len(directly) <= MOST_FILES_IN_DATAMODULES


def test_a_stand_in_is_known_by_the_same_key_where_it_is_made_and_where_answers_are_scored() -> None:
    assert datamodules.batch.SKIPPED_KEY == lightning_modules.evaluation.scoring.SKIPPED_KEY


def test_batch_has_what_the_model_reads() -> None:
    read = {name for name in vars(components.interfaces.VideoTextBatch) if not name.startswith("_")}
    of_text = {"input_ids", "text_mask", "labels", "video_index"}
    assert read == {"frames", "frame_counts", "frame_ms", "picture_sizes"} | of_text
    assert read <= set(datamodules.batch.Batch._fields)
