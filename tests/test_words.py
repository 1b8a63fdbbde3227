"""The words that code and docs use: the field's terms, no figures of speech."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ["components", "datamodules", "lightning_modules", "membridge", "apps", "benchmarks", "configs", "docs"]
FILES = ["README.md", "CONTRIBUTING.md", "train.py", "evaluate.py"]
ENDINGS = {".py", ".md", ".yaml"}
SAY_INSTEAD = {
    r"\bjudg\w*": "evaluate, compare, decide",
    r"\blets? in\b": "admits",
    r"\bby a hair\b": "how far",
    r"\bspeaks?\b": "has (a dtype, a format)",
    r"\bheard\b": "read, admitted",
    r"\bheld against\b": "compared with; caused by",
    r"\bis through\b": "has finished",
    r"\bgo(es)? astray\b": "is lost",
    r"\bscene[ _]?tiling\b(?!\.(json|safetensors))": "SceneTilling, scene_tilling: the paper's spelling",
    r"\bkinds? of question": "category",
}
OLD_NAMES = {"components/old_class_paths.py"}  # the one list of earlier names


def texts() -> dict[str, str]:
    """Everything that a reader sees, by its path from the root."""
    paths = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in ENDINGS]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    found |= {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    return {path: text for path, text in found.items() if path not in OLD_NAMES}


@pytest.mark.parametrize("pattern", SAY_INSTEAD)
def test_nobody_has_to_guess_a_word(pattern: str) -> None:
    seen = texts()
    assert len(seen) > 200
    wrong = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in seen.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert wrong == [], f"say instead: {SAY_INSTEAD[pattern]}"
