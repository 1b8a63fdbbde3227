"""Large samples, --restart, --strip-prefix, single files and what --help prints."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.convert.__main__ import main
from datamodules.convert.plan import Plan
from datamodules.convert.planned_samples import Progress
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

STORE_PROGRESS = Plan.store_progress


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes samples of few conversations only."""
    for module in ("shards.schema", "shards.shard_writer", "shards.shard_scan", "shards.index_entries"):
        monkeypatch.setattr(f"datamodules.{module}.MAX_JSON_BYTES", 1400)
    for module in ("shards.schema", "convert.plan", "convert.rows"):
        monkeypatch.setattr(f"datamodules.{module}.MAX_CONVERSATIONS_BYTES", 1000)


def rows_about_few_media(folder: Path, count: int = 40) -> Path:
    write_media(folder, "a.jpg", "b.mp4", "c.jpg")
    names = ["a.jpg", "b.mp4", "a.jpg"] * count
    rows = [llava_item(f"{number} ?", "ä" * (number % 50), image=names[number]) for number in range(1, count)]
    return write_json(folder / "rows.json", [*rows, llava_item("last ?", image="c.jpg")])


@pytest.mark.usefixtures("small_limit")
def test_many_rows_about_one_file_become_samples_that_the_reader_takes(tmp_path: Path) -> None:
    rows = rows_about_few_media(tmp_path)
    convert("llava", rows, tmp_path / "out", "--max-missing-rate", 1)
    samples = read_samples(tmp_path / "out")
    assert len(samples) == report(tmp_path / "out")["samples"] > 6
    kept = [one.id for sample in samples for one in sample.record.conversations]
    lost = [f"rows#{row}" for row, reason in left_out(tmp_path / "out") if reason == "empty turn"]
    assert sorted(kept + lost) == sorted(f"rows#{number}" for number in range(40))
    assert all(sample.media for sample in samples)
    assert len({sample.key for sample in samples}) == len(samples)


@pytest.mark.usefixtures("small_limit")
def test_a_run_killed_within_the_samples_of_one_file_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_about_few_media(tmp_path)
    options = ("--max-samples", 2, "--max-missing-rate", 1, "--reencode", 32)
    convert("llava", rows, tmp_path / "whole", *options)
    assert len(shard_bytes(tmp_path / "whole")) > 3
    for stop_at in range(1, 4):
        out = tmp_path / str(stop_at)
        with monkeypatch.context() as patched:
            calls = iter(range(99))

            def stop(plan: Plan, progress: Progress, number: int = stop_at, calls: Iterator[int] = calls) -> None:
                STORE_PROGRESS(plan, progress)
                if next(calls) == number:
                    raise KeyboardInterrupt

            patched.setattr(Plan, "store_progress", stop)
            with pytest.raises(KeyboardInterrupt):
                convert("llava", rows, out, *options)
        convert("llava", rows, out, *options)
        assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
        assert report(out) == report(tmp_path / "whole")


@pytest.mark.usefixtures("small_limit")
def test_all_rows_about_a_missing_file_are_listed_once(tmp_path: Path) -> None:
    rows = rows_about_few_media(tmp_path)
    (tmp_path / "a.jpg").unlink()
    convert("llava", rows, tmp_path / "out", "--max-missing-rate", 1)
    kept = [one.id for sample in read_samples(tmp_path / "out") for one in sample.record.conversations]
    listed = [f"rows#{row}" for row, _ in left_out(tmp_path / "out")]
    assert sorted(kept + listed) == sorted(f"rows#{number}" for number in range(40))


@pytest.mark.usefixtures("small_limit")
def test_a_conversation_that_no_sample_can_hold_costs_its_row(tmp_path: Path) -> None:
    rows = write_json(tmp_path / "rows.json", [llava_item("a ?", "x" * 1000), llava_item("b ?")])
    convert("llava", rows, tmp_path / "out", "--max-missing-rate", 0.5)
    assert left_out(tmp_path / "out") == [(0, "malformed row")]


def test_restart_converts_again_whatever_was_there(tmp_path: Path) -> None:
    rows = many_clips(tmp_path, 5)
    out = tmp_path / "out"
    convert("llava", rows, out, "--max-samples", 1)
    convert("llava", rows, out, "--name", "other")
    read_samples(out)  # makes indexes
    convert("llava", rows, out, "--max-samples", 3, status=2)
    convert("llava", rows, out, "--max-samples", 3, "--restart")
    assert set(shard_bytes(out)) == {"llava-000000.tar", "llava-000001.tar", "other-000000.tar"}
    assert len(read_samples(out, "llava*.tar")) == 5
    (out / ".llava.plan.sqlite").unlink()
    convert("llava", rows, out, status=2)
    convert("llava", rows, out, "--restart")
    assert set(shard_bytes(out)) == {"llava-000000.tar", "other-000000.tar"}
    convert("llava", rows, out)


def test_messages_about_an_earlier_conversion_name_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = many_clips(tmp_path, 1)
    convert("llava", rows, tmp_path / "out")
    convert("llava", rows, tmp_path / "out", "--max-samples", 1, status=2)
    assert "--restart" in capsys.readouterr().err
    (tmp_path / "out/.llava.plan.sqlite").unlink()
    convert("llava", rows, tmp_path / "out", status=2)
    assert "--restart" in capsys.readouterr().err


def test_a_prefix_is_taken_off_the_paths_of_media(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_media(tmp_path / "media", "x/a.mp4", "b.mp4")
    names = ["/data/x/a.mp4", "/data/videos/b.mp4", "x/a.mp4", "/data/../b.mp4", "/database/b.mp4", "C:\\clips\\b.mp4"]
    rows = write_json(tmp_path / "rows.json", [llava_item(f"{name} ?", video=name) for name in names])
    options = ("--media-root", tmp_path / "media", "--max-missing-rate", 1)
    convert("llava", rows, tmp_path / "refused", *options)
    assert "--strip-prefix /data/x/ would remove the folder" in capsys.readouterr().out
    prefixes = ("--strip-prefix", "/data", "--strip-prefix", "/data/videos/", "--strip-prefix", "C:\\clips\\")
    convert("llava", rows, tmp_path / "out", *options, *prefixes)
    found = {str(one.record.meta["media"]): len(said(one)) for one in read_samples(tmp_path / "out")}
    assert found == {"x/a.mp4": 2, "b.mp4": 2}
    assert left_out(tmp_path / "out") == [(3, "refused path"), (4, "refused path")]
    convert("llava", rows, tmp_path / "out", *options, status=2)
    assert "(different: stripped prefixes)" in capsys.readouterr().err


def test_one_file_of_a_tree_is_a_source_too(tmp_path: Path) -> None:
    write_media(tmp_path, "a.mp4")
    item = {"video": "a.mp4", "QA": [{"i": "", "q": "what ?", "a": "b"}]}
    alone = write_json(tmp_path / "my_vc2.json", [item])
    of_tree = write_json(tmp_path / "video/vqa/ego_qa/train.json", [item])
    convert("pllava", alone, of_tree, tmp_path / "out", "--media-root", tmp_path)
    (sample,) = read_samples(tmp_path / "out")
    assert [one.id for one in sample.record.conversations] == ["my_vc2#0", "ego_qa#0"]
    subset = tmp_path / "178k/0_30_s/0_30_s_cap_v0_1_qa_processed.json"
    write_json(subset, [llava_item(video="b.mp4")])
    write_media(tmp_path / "178k", "b.mp4")
    convert("llava-video", subset, tmp_path / "out178k")
    (sample,) = read_samples(tmp_path / "out178k")
    assert (sample.record.source, sample.record.conversations[0].category) == ("0_30_s", "caption")


def test_help_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["llava"], ["videollamb"], ["pllava"], ["llava-video"], ["mixture"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "`" not in capsys.readouterr().out


def test_a_plan_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    rows = many_clips(tmp_path, 3)
    convert("llava", rows, tmp_path / "out")
    with sqlite3.connect(tmp_path / "out/.llava.plan.sqlite") as plan:
        plan.execute("DELETE FROM state WHERE name = 'unread'")
        (progress,) = plan.execute("SELECT value FROM state WHERE name = 'progress'").fetchone()
        plan.execute("UPDATE state SET value = ? WHERE name = 'progress'", (json.dumps(json.loads(progress)[:4]),))
    plan.close()
    convert("llava", rows, tmp_path / "out")
    assert report(tmp_path / "out")["not_read"] == {}
