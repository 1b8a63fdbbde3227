"""Nothing about one row or one file ends a conversion; what concerns all of it does, with a status of its own."""

import errno
import json
import os
from pathlib import Path

import pytest

from command_errors import run_and_exit
from datamodules.convert.media_paths import find_media
from datamodules.convert.prepare_media import MediaJob, Preparation, PreparedMedia
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.convert.workers import prepare_all
from tests.datamodules.convert.conversions import convert, left_out, llava_item, many_clips, read_samples, write_json
from tests.datamodules.convert.misbehaving import Failing

ERRORS = [
    ZeroDivisionError("by zero"),
    TypeError("no"),
    RecursionError(),
    MemoryError(),
    OSError(5, "disk"),
    KeyError(1),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_in_the_work_on_a_file_costs_its_sample_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    rows = many_clips(tmp_path, 3)

    def find(name: str, *args: object) -> Path:
        if name == "clips/001.mp4":
            raise error
        return find_media(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("datamodules.convert.prepare_media.find_media", find)
    convert("llava", rows, tmp_path / "out", status=1)
    assert len(read_samples(tmp_path / "out")) == 2
    assert left_out(tmp_path / "out") == [(1, "decoder crashed or hung"), (4, "decoder crashed or hung")]
    problem = json.loads((tmp_path / "out/llava.left_out.jsonl").read_text().splitlines()[0])
    assert "clips/001.mp4" in problem["message"]
    assert f"{type(error).__name__}: {error}" in problem["message"]


def test_an_error_in_a_worker_process_costs_its_sample_only(tmp_path: Path) -> None:
    many_clips(tmp_path, 1)
    names = ["clips/000.mp4", Failing("clips/000.mp4"), "clips/000.mp4"]
    jobs = [MediaJob(number, name, (str(tmp_path),), None, None) for number, name in enumerate(names)]
    first, second, third = prepare_all(jobs, Preparation(True, None, tmp_path), num_workers=1)
    assert isinstance(first, PreparedMedia)
    assert isinstance(third, PreparedMedia)
    assert isinstance(second, RowProblem)
    assert second.reason is Reason.CRASHED


def test_any_error_in_reading_a_row_costs_the_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(9))

    def fail(*args: object) -> str:
        if next(calls) == 1:
            raise AttributeError("nobody foresaw this")
        return json.dumps({"id": str(args), "turns": []})

    monkeypatch.setattr("datamodules.convert.conversion_run.conversation_json", fail)
    rows = write_json(tmp_path / "rows.json", [llava_item(str(number)) for number in range(3)])
    convert("llava", rows, tmp_path / "out", status=1)
    assert left_out(tmp_path / "out") == [(0, "malformed row"), (1, "decoder crashed or hung"), (2, "malformed row")]


def test_half_characters_in_messages_and_folders_are_listed_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("names of files are UTF-8 here")

    def fail(*args: object) -> str:
        raise ValueError("half a character: \udce9")

    items = [llava_item(video="a.mp4"), llava_item("text")]
    rows = write_json(tmp_path / "rows.json", items)
    convert("llava", rows, tmp_path / "out", "--media-root", root, status=1)
    monkeypatch.setattr("datamodules.convert.conversion_run.conversation_json", fail)
    convert("llava", rows, tmp_path / "again", "--media-root", root, status=1)
    assert [reason for _, reason in left_out(tmp_path / "out")] == ["missing media"]
    assert [reason for _, reason in left_out(tmp_path / "again")] == ["decoder crashed or hung"] * 2


def test_a_file_that_goes_between_preparing_and_storing_costs_its_sample_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many_clips(tmp_path, 3)

    def probe(path: Path, **options: bool) -> tuple[int, int, int]:
        facts = probe_video(path, **options)
        if path.name == "001.mp4":
            path.unlink()
        return facts

    monkeypatch.setattr("datamodules.convert.prepare_media.probe_video", probe)
    convert("llava", rows, tmp_path / "out", status=1)
    assert len(read_samples(tmp_path / "out")) == 2
    assert left_out(tmp_path / "out") == [(1, "missing media"), (4, "missing media")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("where", ["convert.prepare_media.probe_video", "shards.shard_writer.ShardWriter.write"])
def test_a_full_disk_ends_the_conversion_as_one_that_cannot_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, where: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, "no room")

    rows = many_clips(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(f"datamodules.{where}", fail)
        convert("llava", rows, tmp_path / "out", status=2)
    assert "no room" in capsys.readouterr().err.splitlines()[-1]
    convert("llava", rows, tmp_path / "out")
    assert len(read_samples(tmp_path / "out")) == 1, "the same command goes on"


def test_an_error_of_the_whole_conversion_in_a_worker_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ConversionError("no encoder")

    monkeypatch.setattr("datamodules.convert.prepare_media.find_media", fail)
    with pytest.raises(ConversionError):
        list(prepare_all([MediaJob(0, "a", (), None, None)], Preparation(True, None, tmp_path), num_workers=0))


def test_a_fault_of_the_program_has_a_status_of_its_own_and_says_so_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = many_clips(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr("datamodules.convert.plan.Plan.samples", lambda *_: 1 // 0)
        with pytest.raises(SystemExit) as ended:
            run_and_exit(lambda: convert("llava", rows, tmp_path / "out"))
    assert ended.value.code == 70
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.splitlines()[-1].startswith("error: ZeroDivisionError")
    convert("llava", rows, tmp_path / "out")


def test_the_last_line_says_how_many_rows_were_left_out_and_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = many_clips(tmp_path, 4)
    (tmp_path / "clips/000.mp4").unlink()
    convert("llava", rows, tmp_path / "out", status=1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "25.00% of the rows were left out, --max-missing-rate allows 0.00%" in last
    assert "llava.left_out.jsonl" in last
    for path in (tmp_path / "clips").iterdir():
        path.unlink()
    convert("llava", rows, tmp_path / "none", status=1)
    assert "no row could be used" in capsys.readouterr().err.splitlines()[-1]
