"""Every code block of the README and of docs/ runs: bash through the real parsers, YAML as settings, Python as it is.

What a page's commands do is tested where it costs little: ``test_data_page.py``, ``test_cluster_page.py``,
``test_streaming_page.py`` and ``test_part_page.py`` run their pages on tiny parts. Here every command of every page is
understood by the program that it calls, and a block that no rule runs fails.
"""

import argparse
import contextlib
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from torch.distributed.run import get_args_parser

from benchmarks.ablation.runs import runs_of
from benchmarks.ablation.sweep_file import read_sweep
from benchmarks.ablation.training import training_command
from datamodules.instruction import InstructionDataModule
from lightning_modules.console.command_line import CommandLineReader
from lightning_modules.video_language import VideoLanguageModule
from tests.documentation import (
    OF_THE_MACHINE,
    PAGES,
    ROOT,
    Block,
    blocks_of,
    importable_modules,
    read_page,
    record_commands,
    write_shown_files,
)
from tests.fixtures_models import PartFolders, make_model

# Blocks that a test of their page runs, as that test checks.
RUN_BY = {
    ("docs/adding_a_part.md", "python"): "test_part_page.py",
    ("docs/adding_a_part.md", "yaml"): "test_part_page.py",
    ("docs/data.md", "python"): "test_data_page.py",
    ("docs/data.md", "json"): "test_data_page.py",
    ("docs/memory_augmented_vlm.md", "python"): "test_memory_ov.py",
    ("docs/model_folder.md", "python"): "membridge/test_answering.py",
    ("docs/benchmarks.md", "json"): "test_benchmarks_page.py",
    ("docs/benchmarks.md", "yaml"): "test_benchmarks_page.py",
    ("docs/questions.md", "python"): "test_questions_page.py",
    ("docs/streaming.md", "python"): "test_streaming_page.py",
    ("docs/using.md", "python"): "test_using_page.py",
    ("docs/using.md", "json"): "test_using_page.py",
    ("README.md", "python"): "membridge/test_answering.py",
}
TRAINED_FROM = ["-c", "configs/quickstart_pixels.yaml"]
CONTINUED = "..."  # a page's last training command, with more options
PRINTED = ("", "text")  # what a program prints, or a listing of files


class Understood(BaseException):
    """Raised where a command has understood its arguments, before it does anything."""


@contextlib.contextmanager
def stopping_after_parsing() -> Iterator[None]:
    """Let every parser end the command as soon as it has accepted the arguments."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            for name in ("parse_args", "parse_intermixed_args"):
                patch.setattr(kind, name, stop_after(getattr(kind, name)))
        yield


def stop_after(parse: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse)
    def parse_and_stop(*args: Any, **kwargs: Any) -> Any:
        parse(*args, **kwargs)
        raise Understood

    return parse_and_stop


@functools.cache
def reader_of_train() -> CommandLineReader:
    """The parser of train.py; making it takes longer than using it."""
    return CommandLineReader(VideoLanguageModule, InstructionDataModule, args=["fit", *TRAINED_FROM])


def understood_by_train(*arguments: str) -> None:
    """Hold a command line of train.py, and the files that it names, to all settings that there are."""
    reader = reader_of_train()
    reader.parse_arguments(reader.parser, [each for each in arguments if each != "--print_config"])


def understood_by_module(name: str, arguments: list[str]) -> None:
    """Hold arguments to the parser of a command."""
    found = importlib.util.find_spec(name)
    assert found is not None, f"there is no module {name}"
    module = importlib.import_module(f"{name}.__main__" if found.submodule_search_locations else name)
    with stopping_after_parsing(), pytest.raises(Understood):
        module.main(arguments)


def check_python(arguments: list[str], page: str) -> None:
    """``python FILE ...`` or ``python -m MODULE ...``."""
    if arguments[0] == "train.py":
        understood_by_train(*arguments[1:])
    elif arguments[0] == "-m" and arguments[1] == "lightning_modules.submit" and "--" in arguments:
        end = arguments.index("--")
        understood_by_module(arguments[1], arguments[2:end])
        understood_by_train(*arguments[end + 1 :])
    elif arguments[0] == "-c":
        compile(arguments[1], page, "exec")
    elif arguments[0] == "-m":
        understood_by_module(arguments[1], arguments[2:])
    elif arguments[0] in {block.mark for block in blocks_of(page, "python")} or (ROOT / arguments[0]).is_file():
        if arguments[0] == "evaluate.py":
            understood_by_module("apps.evaluate", arguments[1:])
    else:
        pytest.fail(f"{page}: there is no {arguments[0]}")


def check_torchrun(arguments: list[str], page: str) -> None:
    parsed = get_args_parser().parse_args(arguments)
    check_python([parsed.training_script, *parsed.training_script_args], page)


def check_srun(arguments: list[str], page: str) -> None:
    check_python(arguments[arguments.index("python") + 1 :], page)


def check_sbatch(arguments: list[str], page: str) -> None:
    """``sbatch --wrap 'python ...'``, as the first task of an array."""
    wrapped = arguments[arguments.index("--wrap") + 1].replace("$SLURM_ARRAY_TASK_ID", "0")
    check_python(shlex.split(wrapped)[1:], page)


def check_make(arguments: list[str], page: str) -> None:
    subprocess.run(["make", "-n", "-C", str(ROOT), *arguments], check=True, capture_output=True, timeout=60)


def check_pip(arguments: list[str], page: str) -> None:
    """``pip install``: the extras that it names exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert arguments[0] == "install"
    for extras in re.findall(r"\.\[(.*)\]", " ".join(arguments)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras


def accept(arguments: list[str], page: str) -> None:
    """A program that is not this project's; bash has understood the line."""


PROGRAMS: dict[str, Callable[[list[str], str], None]] = {
    "python": check_python,
    "torchrun": check_torchrun,
    "srun": check_srun,
    "sbatch": check_sbatch,
    "make": check_make,
    "pip": check_pip,
    **dict.fromkeys(
        ("tensorboard", "cp", "git", "bash", "huggingface-cli", "hf", "cat", "ls", "rsync", "curl", "openssl"), accept
    ),
    "lmms-eval": accept,
}


def lists_data(block: Block) -> bool:
    """Whether a YAML lists data sets for the converter; ``test_data_page.py`` converts them."""
    return block.page == "docs/data.md" and "datasets" in yaml.safe_load(block.text)


def names_arms(block: Block) -> bool:
    """Whether a YAML is a sweep, not a config of ``train.py``."""
    return block.page == "docs/ablations.md" and "arms" in yaml.safe_load(block.text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with this project's files and those that the page shows."""
    place = tmp_path / "place"
    shutil.copytree(ROOT / "configs", place / "configs")
    for name in ("train.py", "evaluate.py"):
        (place / name).symlink_to(ROOT / name)
    monkeypatch.chdir(place)
    for name, value in OF_THE_MACHINE.items():
        monkeypatch.setenv(name, value)
    return place


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "bash")])
def test_commands_are_understood(page: str, folder: Path, tmp_path: Path) -> None:
    write_shown_files(page, folder)
    calls = record_commands(page, [*PROGRAMS, CONTINUED], tmp_path)
    assert calls
    trained: list[str] = []
    with importable_modules(page, folder):
        for program, *arguments in calls:
            if program == CONTINUED:
                program, arguments = "python", [*trained, *arguments]
            elif arguments[:1] == ["train.py"]:
                trained = arguments
            PROGRAMS[program](arguments, page)


@pytest.mark.parametrize(
    "call",
    [
        "python train.py fit -c configs/quickstart_pixels.yaml --trainer.max_stepz 3",
        "python train.py fit -c configs/quickstart_pixels.yaml -c configs/no_such_file.yaml",
        "python -m datamodules.validate data --no-such-option",
        "python no_such_file.py",
        "pip install .[no_such_extra]",
        "make no_such_target",
    ],
)
def test_wrong_commands_are_not_understood(call: str, folder: Path) -> None:
    program, *arguments = call.split()
    with pytest.raises((SystemExit, AssertionError, subprocess.CalledProcessError, pytest.fail.Exception)):
        PROGRAMS[program](arguments, "README.md")


@pytest.mark.parametrize(
    "block",
    [
        block
        for page in PAGES
        for block in blocks_of(page, "yaml")
        if (page, "yaml") not in RUN_BY and not lists_data(block) and not names_arms(block)
    ],
    ids=str,
)
def test_settings_are_understood(block: Block, folder: Path) -> None:
    (folder / "block.yaml").write_text(block.text, encoding="utf-8")
    understood_by_train("fit", *TRAINED_FROM, "-c", "block.yaml")


def test_the_sweep_of_the_page_can_be_read(tmp_path: Path) -> None:
    (block,) = filter(names_arms, blocks_of("docs/ablations.md", "yaml"))
    (tmp_path / "sweep.yaml").write_text(block.text, encoding="utf-8")
    sweep = read_sweep(tmp_path / "sweep.yaml")
    assert list(sweep.arms) == ["selective", "mean_pooling"]
    for run in runs_of(sweep):
        understood_by_train(*training_command(run)[1:])


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks_of(page, "python") if (page, "python") not in RUN_BY], ids=str
)
def test_python_runs(block: Block, folders: PartFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, *, config: Any = None, averaged: bool = False, device: str = "cpu") -> Any:
        return make_model(folders)

    monkeypatch.setattr("lightning_modules.trained_model.load_model", load)
    exec(block.text, {})  # the page's own code


def test_every_block_has_a_rule() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    known = ("bash", "yaml", "python", *PRINTED)
    without = [str(each) for each in blocks if each.language not in known and (each.page, each.language) not in RUN_BY]
    assert without == []


def test_no_fence_is_missed() -> None:
    for page in PAGES:
        assert read_page(page).count("\n```") == 2 * len(blocks_of(page)), page


def test_pages_with_a_test_of_their_own_are_named_there() -> None:
    for (page, _), test in RUN_BY.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text(encoding="utf-8")
