"""Options of the project's own commands have hyphens; their earlier spelling with underscores is read too."""

import argparse

import pytest

from lightning_modules.console.option_spelling import add_option, with_hyphens, with_underscores
from lightning_modules.submit.__main__ import _parser as submit_parser


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_option(parser, "--batch-size", type=int, default=3, help="samples at once")
    add_option(parser, "--language-model", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], (3, False)),
        (["--batch-size=4", "--language-model"], (4, True)),
        (["--batch_size", "4", "--language_model"], (4, True)),
    ],
    ids=["defaults", "now", "earlier"],
)
def test_both_spellings_set_the_same_value(arguments: list[str], values: tuple[int, bool]) -> None:
    found = make_parser().parse_args(arguments)
    assert (found.batch_size, found.language_model) == values


def test_help_shows_the_spelling_with_hyphens_only() -> None:
    text = make_parser().format_help()
    assert "--batch-size" in text
    assert "--batch_size" not in text


def test_values_and_other_arguments_stay_as_they_are() -> None:
    given = ["--run-folder=a-b/--c-d", "--gpu-option=--gres=gpu:{gpus}", "a-b", "-c", "--nodes"]
    assert with_underscores(given) == ["--run_folder=a-b/--c-d", "--gpu_option=--gres=gpu:{gpus}", *given[2:]]
    assert with_hyphens("[--run_folder FOLDER_NAME]") == "[--run-folder FOLDER_NAME]"


def test_submit_shows_its_options_with_hyphens_and_reads_both_spellings() -> None:
    parser = submit_parser()
    assert "--cpus-per-task" in parser.format_help()
    assert "--dry-run" in parser.format_help()
    for arguments in (["--cpus-per-task=7", "--dry-run"], ["--cpus_per_task=7", "--dry_run"]):
        found = parser.parse_args(with_underscores(arguments))
        assert (found.cpus_per_task, found.dry_run) == (7, True)
