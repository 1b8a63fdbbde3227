"""A small file is replaced at once or not at all."""

import os
from pathlib import Path

import pytest

from components.checkpoints.atomic_folder import write_atomically


def test_a_file_that_cannot_be_written_keeps_its_content_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    write_atomically(path, "old")

    def refuse(_source: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space") as refused:
        write_atomically(path, "new")
    assert refused.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(path, "page")
    assert os.read(reader, 100) == b"page"
    os.close(reader)
    assert path.is_fifo()
