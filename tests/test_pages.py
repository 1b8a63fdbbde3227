"""Links, file names, tables and pictures of README and docs/ are right; ``test_docs.py`` runs the code blocks."""

import re
import runpy
from pathlib import Path

import pytest

from tests.documentation import (
    PAGES,
    ROOT,
    anchors_of,
    blocks_of,
    files_named_by,
    links_of,
    prose_of,
    read_page,
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in links_of(page):
        path, _, anchor = target.partition("#")
        goal = (ROOT / page).parent / path if path else ROOT / page
        is_page = goal.suffix == ".md" and goal.is_file()
        if not goal.exists() or (
            anchor and is_page and anchor not in anchors_of(str(goal.resolve().relative_to(ROOT)))
        ):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_named_files_exist(page: str) -> None:
    shown = {block.mark for block in blocks_of(page)}
    named = {name for name in files_named_by(page) if name not in shown}
    assert [name for name in sorted(named) if not (ROOT / name).exists() and not list(ROOT.glob(name))] == []


def test_index_names_every_page() -> None:
    linked = set(links_of("docs/README.md"))
    assert {Path(page).name for page in PAGES if page.startswith("docs/")} - linked <= {"README.md"}


def test_terms_of_the_notation_are_in_the_glossary() -> None:
    glossary = read_page("docs/glossary.md").lower()
    terms = [
        *("segment", "bridge", "readout", "gate", "cache", "memory token", "visual token", "frame group", "reading"),
        *("reader", "visual stream", "visual prompt", "kept tokens", "token place", "saliency", "reducer"),
        *("projector", "language state", "media", "shard", "draw", "category", "group", "epoch"),
        *("encoder", "patch", "prompt", "scenetilling"),
    ]
    assert [term for term in terms if f"**{term}**" not in glossary] == []


def test_readme_shows_the_measured_table() -> None:
    (shown,) = [block.text for block in blocks_of("README.md") if "memory        mean pooling" in block.text]
    rows = re.findall(r"^ +(\dx) +(\d+) +([\d.]+) \+- ([\d.]+) +([\d.]+) \+- ([\d.]+)$", shown, re.MULTILINE)
    results = read_page("docs/RESULTS.md")
    assert len(rows) == 4
    for length, questions, *values in rows:
        assert f"| {length} | {questions} | {values[0]} ± {values[1]} | {values[2]} ± {values[3]} |" in results


def test_readme_tree_names_what_is_there() -> None:
    (tree,) = [block.text for block in blocks_of("README.md") if block.text.startswith("train.py ")]
    names = re.findall(r"^(\S+)", tree, re.MULTILINE)
    assert [name for name in names if not (ROOT / name).exists()] == []
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= {name.rstrip("/") for name in names}


def test_readme_names_at_most_eight_files_to_read() -> None:
    section = prose_of("README.md").split("## Read the code")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w/.]+)`", section, re.MULTILINE)
    assert 0 < len(files) <= 8
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_picture_of_the_data_flow_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "docs/images/draw_data_flow.py"))
    drawn = script["draw"]()
    assert (ROOT / "docs/images/data_flow.svg").read_text(encoding="utf-8") == drawn
    named = re.findall(r"(?:components|datamodules|lightning_modules)/[\w/.]+", drawn)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
