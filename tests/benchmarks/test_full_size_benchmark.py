import io
import math
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path

import pytest
import torch

from apps.commands import ROOT
from benchmarks.full_size import __main__ as command
from benchmarks.full_size.__main__ import main
from benchmarks.full_size.building import BRIDGE_FORMS, TRAINS, BridgeForm, Trains, build_model, read_every_frame
from benchmarks.full_size.device import largest_that_fits, unless_out_of_memory
from benchmarks.full_size.inference import InferenceRow, Reading
from benchmarks.full_size.report import ANCHOR, SECTION
from benchmarks.full_size.sizes import FULL, FULL_WORKLOAD, TINY, TINY_WORKLOAD, Shape, Workload
from benchmarks.full_size.training import StepCost, TrainingRow
from benchmarks.results_page import marks, replace_section, replace_summary
from components.flops.step import StepFlops
from components.segmenters.scene_tilling import SceneTilling
from components.selection.all_frames import AllFrames
from components.streams import MEMORY_STREAM

CPU = torch.device("cpu")
PARTS = ("encoder", "language_model", "bridge")
WORDS = int(TINY.language["vocab_size"])


def rows(printed: str, table: int) -> list[list[str]]:
    """Cells of the first or second table, without its two head lines."""
    lines = printed.splitlines()
    head = [number for number, line in enumerate(lines) if line.startswith("| ---")][table]
    found = []
    for line in lines[head + 1 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.fixture(scope="module")
def printed() -> str:
    """What tiny runs print: both bridges, every way to train one of them."""
    with redirect_stdout(io.StringIO()) as output:
        assert main(["--tiny", "--bridges", "published", "--frames", "16"]) == 0
        assert main(["--tiny", "--bridges", "selective", "--frames", "16", "32", "--trains", "lora"]) == 0
    return output.getvalue()


def test_tiny_run_measures_every_way_to_train(printed: str) -> None:
    published, selective = printed.split("## ")[1:]
    cases = [[row[0], *row[2:5]] for row in rows(published, 0) + rows(selective, 0)]
    assert cases == [
        *([trains, "published", "16", "2"] for trains in TRAINS),
        *(["lora", "selective", frames, "2"] for frames in ("16", "32")),
    ]
    weights = {row[0]: number(row[1]) for row in rows(published, 0)}
    assert min(weights["everything"], weights["lora"]) > weights["bridge"] > 0
    for row in rows(published, 0) + rows(selective, 0):
        seconds, memory, rate = (number(row[place]) for place in (5, 6, 8))
        assert 0 < seconds < 60
        assert 0 < memory < 64
        assert sum(map(float, row[7].split(" + "))) / seconds == pytest.approx(rate, rel=0.02)
        assert row[9] == "-"  # nobody knows the peak of a CPU
        assert number(row[10]) == pytest.approx(math.log(WORDS), rel=0.1)


def test_twice_the_frames_cost_the_encoder_twice_the_operations(printed: str) -> None:
    few, many = ([float(part) for part in row[7].split(" + ")] for row in rows(printed.split("## ")[2], 0))
    assert many[0] == pytest.approx(2 * few[0], rel=0.01)


def test_tiny_run_reads_the_longest_video_it_may_whole_and_streamed(printed: str) -> None:
    for form, section in zip(BRIDGE_FORMS, printed.split("## ")[1:], strict=True):
        whole, streamed = rows(section, 1)
        assert whole[:5] == ["whole", form, str(TINY_WORKLOAD.most_frames), "cap", "4"]
        assert streamed[:4] == ["streamed", form, str(TINY_WORKLOAD.most_streamed), "cap"]
        assert int(streamed[4]) >= TINY_WORKLOAD.most_streamed / 8  # every frame is read, at most 8 a segment
        for row in (whole, streamed):
            assert number(row[2]) / number(row[5]) == pytest.approx(number(row[6]), rel=0.02)
            assert 0 < number(row[7]) < 60
            assert row[9] == "-"


def test_tiny_run_does_not_call_itself_7b(printed: str) -> None:
    assert "## Tiny sizes" in printed
    assert "7B" not in printed


@pytest.mark.parametrize("trains", TRAINS)
def test_what_trains_beside_frozen_weights_is_in_float32_and_all_else_in_bfloat16(trains: Trains) -> None:
    model = build_model(TINY, "published", trains, CPU)
    trained = {part: [p for p in getattr(model, part).parameters() if p.requires_grad] for part in PARTS}
    assert [part for part in PARTS if trained[part]] == [*(["language_model"] * (trains != "bridge")), "bridge"]
    expected = torch.bfloat16 if trains == "everything" else torch.float32
    assert {p.dtype for part in PARTS for p in trained[part]} == {expected}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert model.language_model.training


def test_without_a_gpu_the_full_size_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_tiny_sizes_never_reach_the_results_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tiny", "--results", str(tmp_path / "RESULTS.md")])
    assert "--tiny measures nothing worth keeping" in capsys.readouterr().err


@pytest.mark.parametrize("form", BRIDGE_FORMS)
def test_full_size_is_that_of_the_published_parts(form: BridgeForm) -> None:
    model = build_model(FULL, form, "everything", torch.device("meta"))
    assert sum(p.numel() for p in model.language_model.parameters()) == 6_738_415_616
    if form == "published":
        assert sum(p.numel() for p in model.bridge.parameters()) == 21_027_840
    assert (model.encoder.dim, model.encoder.num_patches) == (1024, 256)
    assert model.patch_pooling is not None
    assert model.patch_pooling(torch.zeros(1, 256, 1024, device="meta")).shape == (1, 144, 1024)


def test_streaming_reads_every_frame_in_segments_of_at_most_eight() -> None:
    model = build_model(TINY, "published", None, CPU)
    read_every_frame(model)
    assert isinstance(model.frame_selections[MEMORY_STREAM], AllFrames)
    assert isinstance(model.segmenter, SceneTilling)
    assert (model.segmenter.k, model.segmenter.max_segment_frames) == (3, 8)


def fake_training(shape: Shape, form: str, trains: Trains, workload: Workload, device: object) -> Iterator[TrainingRow]:
    assert (shape, workload) == (FULL, FULL_WORKLOAD)
    flops = StepFlops(1e12, 98e12, 890.5e12)  # together a second of an H100
    for frames, cost in ((16, StepCost(2.0, 70.5, flops, 6_759_443_456, 10.4)), (320, None)):
        yield TrainingRow(trains, "published", frames, workload.videos, cost)


def fake_inference(shape: Shape, form: str, workload: Workload, device: object) -> Iterator[InferenceRow]:
    yield InferenceRow("whole", "published", 20_480, False, Reading(10.0, 0.5, 78.25, (8,) * 4), 2473.75e12)
    yield InferenceRow("streamed", "published", 0, False, None, 0.0)


def test_table_of_a_gpu_replaces_its_section_and_says_what_did_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(command, "measure_training", fake_training)
    monkeypatch.setattr(command, "measure_inference", fake_inference)
    page = tmp_path / "RESULTS.md"
    begin, end = marks(SECTION)
    page.write_text(f"| a | not run | b | - | - | [c](#{ANCHOR}) |\n{begin}\nold\n{end}\nafter\n")
    given = ["--results", str(page), "--bridges", "published", "--trains", "everything"]
    assert main(given) == 0
    text = page.read_text()
    step = "step that trains everything, published bridge, 8 videos of 16 frames: 2 s, 70.50 GiB"
    summary = f"| a | {step}; longest video: 20,480 frames | b | NVIDIA H100 80GB HBM3 | {date.today()} |"
    assert text.startswith(f"{summary} [c](#{ANCHOR}) |\n{begin}\n## ")
    assert text.endswith(f"|\n{end}\nafter\n")
    assert "old" not in text
    assert f"`python -m benchmarks.full_size {' '.join(given)}` (NVIDIA H100 80GB HBM3; {date.today()};" in text
    fits, too_large = rows(text, 0)
    assert fits[:7] == ["everything", "6,759.44", "published", "16", "8", "2", "70.50"]
    assert fits[7:] == ["1 + 98 + 890", "495", "50.0%", "10.40"]
    assert too_large == ["everything", "-", "published", "320", "8", "out of memory", *["-"] * 5]
    whole, streamed = rows(text, 1)
    assert whole == ["whole", "published", "20,480", "memory", "4", "10", "2,048", "0.5", "78.25", "25.0%"]
    assert streamed == ["streamed", "published", "-", "out of memory", *["-"] * 6]


def test_results_page_has_one_place_for_the_tables() -> None:
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page.count(f"(#{ANCHOR})") == 1
    assert "| made-up figure |" in replace_summary(page, ANCHOR, figure="made-up figure", device="-", made="-")
    assert [page.count(mark) for mark in marks(SECTION)] == [1, 1]
    assert replace_section(page, SECTION, "new").endswith(page.split(marks(SECTION)[1])[1])


@pytest.mark.parametrize("grain", [1, 7, 100])
@pytest.mark.parametrize("first", [1, 100, 1000])
def test_search_finds_the_largest_size_that_a_memory_limit_lets_pass(first: int, grain: int) -> None:
    most = 1000
    for limit in (0, 1, 6, 63, 64, 99, 100, 101, 511, 512, 513, 998, 999, 1000, 5000):
        tried: list[int] = []

        def allocate(size: int, limit: int = limit, tried: list[int] = tried) -> int:
            tried.append(size)
            if size > limit:
                raise torch.OutOfMemoryError(f"{size} of {limit}")
            return -size

        found = largest_that_fits(lambda size: unless_out_of_memory(lambda: allocate(size)), first, most, grain)
        if found is None:
            assert limit < grain
        else:
            (size, is_most), result = found
            assert result == -size
            assert size <= limit < size + grain or size == most <= limit
            assert is_most == (size == most)
        assert len(tried) == len(set(tried)) <= 22


def test_other_errors_than_missing_memory_are_not_taken_for_it() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        unless_out_of_memory(fail)
    with pytest.raises(ValueError, match="grain 0"):
        largest_that_fits(lambda size: size, 1, 2, 0)
