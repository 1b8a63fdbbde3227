from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from components.checkpoints.tokenizer_fingerprint import tokenizer_fingerprint
from tests.fixtures_data import make_tiny_tokenizer


def load(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny_tokenizer(folder))


def test_a_copy_in_another_folder_has_the_same_fingerprint(tmp_path: Path) -> None:
    first = load(tmp_path / "a")
    first.save_pretrained(tmp_path / "b")
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / "b"))


def test_each_difference_shows_in_its_own_hash(tmp_path: Path) -> None:
    plain = tokenizer_fingerprint(load(tmp_path / "plain"))
    more, ends, asks = (load(tmp_path / name) for name in ("more", "ends", "asks"))
    more.add_tokens(["another"])
    ends.eos_token = "red"
    asks.chat_template += " "
    differing = [
        [name for name in plain._fields if getattr(plain, name) != getattr(tokenizer_fingerprint(other), name)]
        for other in (more, ends, asks)
    ]
    assert differing == [["vocabulary"], ["special_ids"], ["chat_template"]]


def test_a_token_that_became_special_shows(tmp_path: Path) -> None:
    plain, marked = load(tmp_path / "plain"), load(tmp_path / "marked")
    marked.add_tokens([AddedToken("red", special=True)])
    assert tokenizer_fingerprint(plain).special_ids != tokenizer_fingerprint(marked).special_ids
