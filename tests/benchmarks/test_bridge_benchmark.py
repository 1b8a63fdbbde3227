from pathlib import Path

import pytest
import torch

from benchmarks.bridge import grid_forms, original, original_grid_memory
from benchmarks.bridge.__main__ import main
from benchmarks.bridge.forms import FORMS, Widths, make_videos
from benchmarks.bridge.measuring import run_forward
from benchmarks.resident_memory import PeakResidentBytes, in_fresh_process

TINY = ["--dim", "32", "--out-dim", "16", "--threads", "1", "--rounds", "1", "--no-memory"]


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_forms, "NUM_CELLS", 9)


def test_the_reference_is_the_published_bridge_and_the_table_has_a_row_a_case(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TINY, "--frames", "16", "40", "--videos", "1", "2", "--forms", *FORMS]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if line.startswith(("| 16 ", "| 40 "))]
    forms = [(name, str(videos)) for name, form in FORMS.items() for videos in ((1, 2) if form.batches else (1,))]
    assert rows == [[frames, *form] for frames in ("16", "40") for form in forms]
    compared = [line.partition(":")[0] for line in lines if line.endswith("within tolerance")]
    assert compared == ["published to original", "grid_memory to original_grid_memory"]


def test_another_reference_than_the_published_bridge_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "MAX_FRAMES", 7)
    assert main([*TINY, "--frames", "40", "--videos", "1", "--forms", "original"]) == 1


def test_an_original_with_shorter_segments_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_grid_memory, "SEGMENT_FRAMES", 20)
    assert main([*TINY, "--frames", "40", "--videos", "1", "--forms", "grid_memory"]) == 1


def test_videos_of_a_batch_are_those_that_are_read_alone() -> None:
    widths = Widths(32, 16)
    videos = make_videos(3, 24, widths.dim)
    assert torch.equal(make_videos(1, 24, widths.dim), videos[:1])
    bridge = FORMS["default"].build(widths)
    together = run_forward("default", bridge, videos)
    for video in range(3):
        alone = run_forward("default", bridge, videos[video : video + 1])
        torch.testing.assert_close(together[video : video + 1], alone, rtol=1e-5, atol=1e-5)


def growth_of_touching(megabytes: int) -> int:
    torch.ones(4 * megabytes, 2**18)  # a peak from before
    with PeakResidentBytes() as peak:
        torch.ones(megabytes, 2**18)
    return peak.growth


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
def test_growth_of_the_resident_size_is_that_of_the_measured_work_alone() -> None:
    assert 60 * 2**20 < in_fresh_process(growth_of_touching, 64) < 80 * 2**20
