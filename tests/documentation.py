"""Reads the project's pages: their code blocks, links and named files."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).is_file()),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
# Writes the program's name and arguments, each after a unit separator, and a record separator.
RECORDER = """#!/bin/bash
{ printf '%s' "${0##*/}"; printf '\\x1f%s' "$@"; printf '\\x1e'; } >> "$RECORDED"
"""


# Variables that a page may read without setting them.
OF_THE_MACHINE = {"NODE_RANK": "0", "MASTER_ADDR": "localhost", "SLURM_ARRAY_TASK_ID": "1", "SLURM_TMPDIR": "/local"}


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: Path of the page.
        line: Line of the opening fence.
        language: Word behind the fence; empty for what a program prints.
        mark: What follows it: the name of the file that the block is.
        text: Content.
    """

    page: str
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_page(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page, or those of one language."""
    text = read_page(page)
    found = re.finditer(r"^```(\w*) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = [Block(page, text[: match.start()].count("\n") + 1, *match.groups()) for match in found]
    return [block for block in blocks if language is None or block.language == language]


def prose_of(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", read_page(page), flags=re.MULTILINE | re.DOTALL)


def record_commands(page: str, programs: list[str], folder: Path) -> list[list[str]]:
    """Let bash run all bash blocks of a page, with programs that do nothing but note how they were called.

    So loops, arrays, variables and quotes mean what they mean in a reader's shell. The script ends at a program that is
    not listed and at a variable that the page does not set.

    Args:
        page: The page.
        programs: Names of the programs to stand in for.
        folder: Empty folder.

    Returns:
        Name and arguments of every call, in order.
    """
    programs_folder, recorded = folder / "programs", folder / "recorded"
    programs_folder.mkdir()
    recorded.touch()
    for name in programs:
        (programs_folder / name).write_text(RECORDER)
        (programs_folder / name).chmod(0o755)
    script = "\n".join(block.text for block in blocks_of(page, "bash"))
    done = subprocess.run(
        ["/bin/bash", "-e", "-u", "-c", f"source() {{ :; }}\n{script}"],
        cwd=folder,
        env={"PATH": str(programs_folder), "RECORDED": str(recorded), **OF_THE_MACHINE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{page}: {done.stderr}"
    return [call.split("\x1f") for call in recorded.read_text().split("\x1e")[:-1]]


def write_shown_files(page: str, folder: Path) -> None:
    """Write every file that the page shows; the languages' second word is its path."""
    for block in blocks_of(page):
        if block.mark not in ("", "input"):
            (folder / block.mark).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.mark).write_text(block.text, encoding="utf-8")


@contextmanager
def importable_modules(page: str, folder: Path) -> Iterator[None]:
    """Let the modules that a page shows be imported from a folder as if they lay in this project's packages."""
    shown = [Path(block.mark) for block in blocks_of(page, "python") if "/" in block.mark]
    before = set(sys.modules)
    packages = {".".join(path.parent.parts): folder / path.parent for path in shown if path.parts[0] != "tests"}
    for name, place in packages.items():
        importlib.import_module(name).__path__.append(str(place))
    try:
        yield
    finally:
        for name, place in packages.items():
            importlib.import_module(name).__path__.remove(str(place))
        for path in shown:
            name = ".".join(path.with_suffix("").parts)
            if name not in before:
                sys.modules.pop(name, None)


def anchors_of(page: str) -> set[str]:
    """Names by which links reach the page's headings, as GitHub makes them."""
    anchors: set[str] = set()
    for title in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        anchors.add(next(each for each in (name, *(f"{name}-{n}" for n in range(1, 99))) if each not in anchors))
    return anchors


def links_of(page: str) -> list[str]:
    """Targets of the links and pictures of a page that stay in this project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]


def files_named_by(page: str) -> set[str]:
    """Files and folders of this project that a page names in code style."""
    code = re.findall(r"`([^`\n]+)`", prose_of(page))
    pattern = r"(?<![\w./-])(?:apps|benchmarks|components|configs|datamodules|docs|lightning_modules|tests)/[\w./*-]*"
    return {name.rstrip(".") for span in code for name in re.findall(pattern, span)}
