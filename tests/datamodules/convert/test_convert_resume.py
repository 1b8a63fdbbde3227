import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.convert.plan import Plan
from datamodules.convert.prepare_media import MediaJob, PreparedMedia
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.workers import prepare_all
from tests.datamodules.convert.conversions import (
    convert,
    left_out,
    llava_item,
    many_clips,
    read_samples,
    report,
    said,
    shard_bytes,
    write_json,
    write_media,
)
from tests.datamodules.convert.misbehaving import Deadly, Endless, Impatient

ROOT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def running(*args: object) -> Iterator[subprocess.Popen[str]]:
    """The real command in a process of its own."""
    command = [sys.executable, "-m", "datamodules.convert", *map(str, args)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_conversion_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    rows = many_clips(tmp_path, 24, sizes=[8, 12] * 4 + [150] * 16)  # enough to do after the kill
    (tmp_path / "clips/001.mp4").write_bytes(b"damaged")  # in a shard that is whole before the kill
    (tmp_path / "clips/020.mp4").unlink()
    options = ["--reencode", "32,4", "--max-samples", 4, "--max-missing-rate", 0.5]
    convert("llava", rows, tmp_path / "whole", *options)
    out = tmp_path / "out"
    with running("llava", rows, out, *options, "--workers", 1) as process:
        while not (out / "llava-000001.tar").exists():
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.002)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        written = set(shard_bytes(out))
        assert len(written) < len(shard_bytes(tmp_path / "whole"))
        deadline = time.monotonic() + 30
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, workers)), "worker processes end with a killed run"
    marked = out / "llava-000000.tar"
    os.utime(marked, ns=(1, 1))
    convert("llava", rows, out, *options)
    assert marked.stat().st_mtime_ns == 1, "whole shards are kept, not written again"
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
    assert report(out) == report(tmp_path / "whole")
    assert (
        left_out(out)
        == left_out(tmp_path / "whole")
        == [
            (1, "damaged media"),
            (20, "missing media"),
            (25, "damaged media"),
            (44, "missing media"),
        ]
    )
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_run_killed_between_a_shard_and_its_note_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many_clips(tmp_path, 7)
    convert("llava", rows, tmp_path / "whole", "--max-samples", 2)
    for call in range(3):
        out = tmp_path / str(call)
        with monkeypatch.context() as patched:
            calls = iter(range(9))

            def stop(*args: object, number: int = call, calls: Iterator[int] = calls) -> None:
                if next(calls) == number:
                    raise KeyboardInterrupt

            patched.setattr("datamodules.convert.plan.Plan.store_progress", stop)
            with pytest.raises(KeyboardInterrupt):
                convert("llava", rows, out, "--max-samples", 2)
        convert("llava", rows, out, "--max-samples", 2)
        assert shard_bytes(out) == shard_bytes(tmp_path / "whole")


def test_several_workers_write_the_same_bytes_as_none(tmp_path: Path) -> None:
    rows = many_clips(tmp_path, 9, sizes=(4, 24, 8))
    convert("llava", rows, tmp_path / "one", "--max-gigabytes", 8e-6)
    with running("llava", rows, tmp_path / "two", "--max-gigabytes", 8e-6, "--workers", 2) as process:
        assert process.wait() == 0, process.stdout and process.stdout.read()
    assert len(shard_bytes(tmp_path / "one")) > 2
    assert shard_bytes(tmp_path / "two") == shard_bytes(tmp_path / "one")


def test_parts_are_disjoint_and_together_everything(tmp_path: Path) -> None:
    rows = many_clips(tmp_path, 16)
    document = json.loads(rows.read_text())
    write_json(rows, [*document, *(llava_item(f"text {number}") for number in range(6)), "wrong", {}, 7])
    convert("llava", rows, tmp_path / "whole", "--max-missing-rate", 1)
    for part in (1, 2, 3):
        convert("llava", rows, tmp_path / "parts", "--part", f"{part}/3", "--max-missing-rate", 1)
    whole, parts = read_samples(tmp_path / "whole"), read_samples(tmp_path / "parts")
    assert len(parts) == len(whole) == 16 + 6
    assert {sample.key: said(sample) for sample in parts} == {sample.key: said(sample) for sample in whole}
    names = [f"llava-part{part}-of-3" for part in (1, 2, 3)]
    assert set(shard_bytes(tmp_path / "parts")) == {f"{name}-000000.tar" for name in names}
    assert sorted(row for name in names for row in left_out(tmp_path / "parts", name)) == left_out(tmp_path / "whole")
    counts = [report(tmp_path / "parts", name) for name in names]
    assert sum(one["rows_read"] for one in counts) == report(tmp_path / "whole")["rows_read"] == 32 + 6 + 3
    with pytest.raises(AssertionError):
        convert("llava", rows, tmp_path / "parts", "--part", "4/3")


def test_other_settings_or_inputs_are_refused_where_a_conversion_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = many_clips(tmp_path, 2)
    convert("llava", rows, tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    convert("llava", rows, tmp_path / "out", "--max-samples", 1, status=2)
    assert "different: max_samples" in capsys.readouterr().err
    convert("llava", rows, tmp_path / "out", "--media-root", write_media(tmp_path / "b", "a.mp4"), status=2)
    assert "different: media roots" in capsys.readouterr().err
    write_json(rows, [])
    convert("llava", rows, tmp_path / "out", status=2)
    assert "different: annotations" in capsys.readouterr().err
    (tmp_path / "out/.llava.plan.sqlite").unlink()
    convert("llava", rows, tmp_path / "out", status=2)
    assert "exists and is not from a conversion" in capsys.readouterr().err
    assert shard_bytes(tmp_path / "out") == before


def test_a_finished_conversion_says_that_it_does_nothing_and_how_to_begin_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_json(tmp_path / "rows.json", [llava_item(video="late.mp4")])
    options = ("--media-root", tmp_path, "--max-missing-rate", 1)
    convert("llava", rows, tmp_path / "out", *options)
    assert "finished before" not in capsys.readouterr().err
    write_media(tmp_path, "late.mp4")
    convert("llava", rows, tmp_path / "out", *options)
    assert f"give --restart: it removes {tmp_path / 'out/llava'}-*.tar" in capsys.readouterr().err
    convert("llava", rows, tmp_path / "out", *options, "--restart")
    assert [sample.record.meta["media"] for sample in read_samples(tmp_path / "out")] == ["late.mp4"]


def test_a_media_root_for_annotations_that_there_are_none_of_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert("llava", many_clips(tmp_path, 1), tmp_path / "out", "--media-root", f"video/typo={tmp_path}", status=2)
    assert "no annotation is below 'video/typo'; there are" in capsys.readouterr().err


def test_a_damaged_list_stops_before_anything_is_written_and_can_be_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = many_clips(tmp_path, 2)
    text = rows.read_text()
    rows.write_text(text[:-10])
    convert("llava", rows, tmp_path / "out", status=2)
    assert f"{rows} is no complete JSON list" in capsys.readouterr().err
    assert not shard_bytes(tmp_path / "out")
    rows.write_text(text)
    convert("llava", rows, tmp_path / "out")
    assert len(read_samples(tmp_path / "out")) == 2


def test_the_plan_of_an_older_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_json(tmp_path / "rows.json", [llava_item(image="a.jpg"), llava_item(video="b.mp4")])
    write_media(tmp_path, "a.jpg", "b.mp4")
    convert("llava", rows, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("datamodules.convert.conversion_run._write_shards", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            convert("llava", rows, tmp_path / "out")
    with sqlite3.connect(tmp_path / "out/.llava.plan.sqlite") as database:
        database.execute("ALTER TABLE samples DROP COLUMN named_as")
    database.close()
    convert("llava", rows, tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_second_run_beside_the_first_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = many_clips(tmp_path, 2)
    (tmp_path / "out").mkdir()
    with Plan(tmp_path / "out/.llava.plan.sqlite", {}):
        convert("llava", rows, tmp_path / "out", status=2)
    assert "is in use" in capsys.readouterr().err


def test_a_decoder_that_crashes_or_hangs_costs_its_own_sample_only(tmp_path: Path) -> None:
    write_media(tmp_path, "a.mp4")
    names = ["a.mp4", "a.mp4", Deadly("b.mp4"), "a.mp4", None, "none.mp4"]
    folders = (str(tmp_path),)
    jobs = [None if name is None else MediaJob(number, name, folders, None, None) for number, name in enumerate(names)]
    jobs.append(MediaJob(6, "a.mp4", Endless(folders), None, None))
    outcomes = list(prepare_all(jobs, Impatient(True, None, tmp_path), num_workers=1))
    whole = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PreparedMedia)]
    reasons = {number: one.reason for number, one in enumerate(outcomes) if isinstance(one, RowProblem)}
    assert whole == [0, 1, 3]
    assert outcomes[4] is None
    assert reasons == {2: Reason.CRASHED, 5: Reason.MISSING, 6: Reason.CRASHED}
