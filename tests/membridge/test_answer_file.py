import errno
import os
from pathlib import Path

import pytest

from membridge.answer_file import AnswerFile, check_settings, read_answers

SETTINGS = {"model": "abc", "max_new_tokens": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two answers."""
    with AnswerFile(tmp_path / "new/answers.jsonl", SETTINGS) as file:
        file.add([{"id": "1", "answer": "réd"}])
        file.add([{"id": "2", "answer": "blue\u2028\n"}])
    return tmp_path / "new/answers.jsonl"


def test_answers_are_read_again(path: Path) -> None:
    with AnswerFile(path, SETTINGS) as file:
        assert {name: each["answer"] for name, each in file.answers.items()} == {"1": "réd", "2": "blue\u2028\n"}
        assert not file.was_cut


@pytest.mark.parametrize("lost", range(1, 12))
def test_a_last_line_cut_anywhere_is_removed_and_the_next_answer_follows_the_complete_ones(
    path: Path, lost: int
) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    with AnswerFile(path, SETTINGS) as file:
        assert file.was_cut
        assert list(file.answers) == ["1"]
        file.add([{"id": "2", "answer": "blue\u2028\n"}])
    assert path.read_bytes() == content


def test_damage_before_the_last_line_is_named(path: Path) -> None:
    path.write_bytes(b"\0" * 9 + path.read_bytes())
    with pytest.raises(ValueError, match="line 1 is no answer"):
        AnswerFile(path, SETTINGS)


def test_answers_of_other_settings_or_of_another_command_are_not_continued(path: Path) -> None:
    content = path.read_bytes()
    with pytest.raises(ValueError, match="other settings: max_new_tokens was 3, is 4"):
        AnswerFile(path, SETTINGS | {"max_new_tokens": 4})
    (path.parent / "answers.settings.json").unlink()
    with pytest.raises(ValueError, match=r"not of this command: .*answers\.settings\.json is not there"):
        AnswerFile(path, SETTINGS)
    assert path.read_bytes() == content


def test_a_file_that_another_process_writes_is_refused(path: Path) -> None:
    with AnswerFile(path, SETTINGS), pytest.raises(ValueError, match="another process writes"):
        AnswerFile(path, SETTINGS)


def test_an_empty_file_takes_the_settings_of_the_new_command(path: Path) -> None:
    path.write_bytes(b"")
    with AnswerFile(path, {"model": "other"}) as file:
        assert file.answers == {}
    AnswerFile(path, {"model": "third"}).__exit__(None, None, None)


@pytest.mark.parametrize("line", [b"x", b"5", b'{"id": 5}', b"[" * 100_000, b"", b"\xff"])
def test_a_complete_line_that_is_no_answer_is_named_and_nothing_is_lost(path: Path, line: bytes) -> None:
    content = path.read_bytes() + line + b"\n"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"line 3 is no answer.*Remove the line"):
        AnswerFile(path, SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("settings", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_damaged_settings_are_named(path: Path, settings: bytes) -> None:
    (path.parent / "answers.settings.json").write_bytes(settings)
    with pytest.raises(ValueError, match=r"answers\.settings\.json is damaged"):
        check_settings(path, SETTINGS)


def test_half_a_character_in_an_answer_is_read_again(path: Path) -> None:
    with AnswerFile(path, SETTINGS) as file:
        file.add([{"id": "\ud800", "answer": "é"}])
    assert read_answers(path)[-1] == {"id": "\ud800", "answer": "é"}


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with AnswerFile(tmp_path / "a.jsonl", SETTINGS) as file, pytest.raises(OSError, match="No space") as refused:
        file.add([{"id": "1"}])
    assert refused.value.filename == str(tmp_path / "a.jsonl")
