"""docs/data.md: its commands and files run as they are, on tiny media in the layouts that it shows.

A block of the page is marked by what follows its language: ``input`` lists files, the content of each indented below it
(media have none); any other word is the name of the file that the block is.
"""

import dataclasses
import os
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from matplotlib.figure import Figure

import train
from apps import look
from apps.evaluate import command as evaluate
from datamodules.convert.__main__ import main as convert
from datamodules.loader import Loading
from datamodules.order.training_order import TrainingOrder
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import parse_record
from datamodules.shards.shard_reader import open_shards
from datamodules.validate.__main__ import main as validate
from lightning_modules.monitoring import inspection
from tests.datamodules.convert.conversions import media_bytes, write_media
from tests.fixtures_data import write_members
from tests.fixtures_models import make_quickstart_parts

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
OF_OTHER_PROGRAMS = {
    "--run_folder",
    "--checkpoint",
    "--array",
    "--with-smollm2",
    "--kills",
    "--data",
    "--ckpt_path",
    "--trainer",
}
QUICK = ["--trainer.max_steps=2", "--trainer.precision=32-true", "--data.loading.num_workers=0"]


class Block(NamedTuple):
    """A fenced block of the page."""

    language: str
    mark: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
COMMANDS = [
    line
    for block in BLOCKS
    if block.language == "bash"
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.startswith("python ")
]


def commands(program: str) -> list[str]:
    """The page's commands that start this program, without those for a store that is not here."""
    return [line for line in COMMANDS if line.startswith(f"python {program} ") and "s3://" not in line]


def arguments(command: str, program: str) -> list[str]:
    """What the shell would make of a command's arguments."""
    return shlex.split(os.path.expandvars(command.removeprefix(f"python {program} ")), comments=True)


def write_tar(path: Path, listing: str) -> None:
    """Write a tar of which the page lists the members, each with its text or, without one, some media."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [line.split(maxsplit=1) for line in listing.splitlines()]
    write_members(path, [(name, text[0].encode() if text else media_bytes(name)) for name, *text in lines])


def write_files(folder: Path) -> None:
    """Write every file that the page shows."""
    for block in BLOCKS:
        if block.mark not in ("", "input", "several"):
            (folder / block.mark).write_text(block.text, encoding="utf-8")
    listed = "".join(block.text for block in BLOCKS if block.mark == "input")
    for name, content in re.findall(r"^(\S+)\n((?: +.*\n)*)", listed, re.MULTILINE):
        if name.endswith(".tar"):
            write_tar(folder / name, content)
        elif content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(" ".join(content.split("\n")).strip(), encoding="utf-8")
        else:
            write_media(folder, name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's files, in which all its conversions were done."""
    folder = tmp_path_factory.mktemp("place")
    write_files(folder)
    make_quickstart_parts(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands("-m datamodules.convert"):
            for task in range(1, 17) if "SLURM_ARRAY_TASK_ID" in command else [0]:
                patch.setenv("SLURM_ARRAY_TASK_ID", str(task))
                assert convert([*arguments(command, "-m datamodules.convert"), "--workers", "0"]) == 0, command
        for block in BLOCKS:
            if block.language == "python":
                runpy.run_path(block.mark)
        yield folder


def test_conversions_give_what_the_page_says(place: Path) -> None:
    found = {}
    for folder in Path("data").iterdir():
        reader = open_shards(str(folder))
        records = [reader.read(number).record for number in range(len(reader))]
        found[folder.name] = [(record.source, [one.category for one in record.conversations]) for record in records]
    assert found == {
        "mine": [("my_rows", [""])],
        "own": [("made", [""])],
        "llava": [("llava_v1_5_mix665k", [""])],
        "interleaved": [("interleaved", [""])] * 2,
        "pllava": [
            ("image/caption/coco", ["caption"]),
            ("video/caption/videochat", ["caption"]),
            ("video/vqa/ego_qa", ["vqa"]),
        ],
        "videollamb": [("videollamb/ssv2", [""])],
        "parts": [("videollamb/ssv2", [""])],
        "llava_video": [("0_30_s_academic_v0_1", ["open_ended", "caption"])],
        "mixture": [("webvid", ["", ""])],
        "webdataset": [("train", [""])] * 3,
    }
    assert {path.name for path in Path("data/mine").iterdir()} >= {"llava.report.json", "llava.left_out.jsonl"}


@pytest.mark.parametrize("command", commands("-m datamodules.validate"))
def test_validator_accepts_the_converted_shards(command: str, place: Path) -> None:
    assert validate([*arguments(command, "-m datamodules.validate"), "--workers", "0"]) == 0


@pytest.mark.parametrize("command", commands("-m apps.look"))
def test_pages_of_the_converted_shards_are_written(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look.main(arguments(command, "-m apps.look")) == 0
    size = r", [\d.]+ kB"
    printed = re.sub(size, "", capsys.readouterr().out.strip())
    assert printed.endswith(", 0 of them wrong")
    if "--config" not in command:
        assert f"prints `{printed}`" in re.sub(size, "", PAGE)
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("command", [line for line in commands("train.py") if "--ckpt_path" not in line])
def test_converted_shards_train(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "draw_video", lambda video: Figure(figsize=(1, 1)))
    cli = train.main([*arguments(command, "train.py"), *QUICK])
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss/mine"])


def test_example_of_a_sample_follows_the_schema() -> None:
    one, several = [block.text for block in BLOCKS if block.language == "json"]
    assert len(parse_record(one.encode(), where="the page", media=MediaCount(1)).conversations) == 2
    record = parse_record(several.encode(), where="the page", media=MediaCount(2, is_numbered=True))
    assert [conversation.media for conversation in record.conversations] == [(0, 1), (1,)]


def test_options_that_the_page_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    asks_for_help = [(convert, ["llava", "--help"]), (convert, ["mixture", "--help"])]
    asks_for_help += [(program, ["--help"]) for program in (validate, look.main, evaluate.main)]
    for program, asked in asks_for_help:
        with pytest.raises(SystemExit):
            program(asked)
    option = r"(?<![\w-])--[a-z][\w-]*"
    known = set(re.findall(option, capsys.readouterr().out)) | OF_OTHER_PROGRAMS
    assert set(re.findall(option, PAGE)) - known == set()


def test_settings_that_the_page_names_exist() -> None:
    kinds = {"order": TrainingOrder, "loading": Loading}
    named = re.findall(r"`(?:data\.)?(order|loading)\.(\w+)", PAGE)
    assert len(named) > 8
    known = {(group, field.name) for group, kind in kinds.items() for field in dataclasses.fields(kind)}
    assert set(named) - known == set()
