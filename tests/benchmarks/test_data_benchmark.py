import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from benchmarks.data.__main__ import main
from benchmarks.data.material import Clips, Material, make_material
from benchmarks.data.measuring import Arrival, cost_of, measure_cost, measure_peak, memory_of
from benchmarks.data.pipelines import PIPELINES, Workload
from benchmarks.data.stamps import Stamp, children, family_processor_seconds
from datamodules.batch import Batch

TINY = Clips(clips=4, height=32, seconds=1, questions=3)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("material"), TINY)


def one_pass(name: str, material: Material) -> dict[str, Batch]:
    """Every clip in a batch of its own, by key, and its stamp checked."""
    batches = {}
    for stamped, _ in zip(PIPELINES[name](Workload(material, 0, 1, TINY.clips)), range(TINY.clips), strict=False):
        assert (stamped.stamp.videos, stamped.stamp.conversations) == (1, len(stamped.batch.questions))
        batches[stamped.batch.questions[0].key] = stamped.batch
    return batches


def test_webdataset_gives_the_frames_and_token_ids_that_the_datamodule_gives(material: Material) -> None:
    ours, theirs = one_pass("datamodule", material), one_pass("webdataset", material)
    assert ours.keys() == theirs.keys()
    assert len(ours) == TINY.clips
    for key, batch in ours.items():
        assert len(batch.questions) == TINY.questions
        for mine, other in zip(batch[:7], theirs[key][:7], strict=True):
            assert torch.equal(torch.as_tensor(mine), torch.as_tensor(other))


def test_cost_leaves_out_the_first_batch_of_every_worker_and_adds_the_receiving_process() -> None:
    arrivals = [
        Arrival(Stamp(worker=1, videos=2, conversations=8, wall=10.0, processor=100.0), 7.0),
        Arrival(Stamp(worker=2, videos=2, conversations=8, wall=50.0, processor=9.0), 7.1),
        Arrival(Stamp(worker=1, videos=2, conversations=8, wall=12.0, processor=101.0), 7.2),
        Arrival(Stamp(worker=2, videos=2, conversations=8, wall=54.0, processor=12.0), 7.6),
    ]
    by_processor, by_wall = (cost_of(arrivals, 1.5, clock) for clock in ("cpu", "wall"))
    assert by_processor.video == pytest.approx((1.0 + 3.0) / 4 + 0.6 / 6)
    assert by_wall.video == pytest.approx(1 / (2 / 2.0 + 2 / 4.0))
    assert (by_wall.first_batch, by_wall.conversations) == (1.5, 4.0)
    with pytest.raises(ValueError, match="two batches"):
        cost_of(arrivals[:3], 1.5, "cpu")


def test_processor_time_of_a_running_child_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = family_processor_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in list(children(os.getpid()))
        assert family_processor_seconds() - before >= 0.3
        child.communicate(b"\n")


def test_shared_pages_count_once_and_frames_in_unmapped_memory_too() -> None:
    alone = memory_of([os.getpid()])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=theirs.recv)
    process.start()
    assert process.pid is not None
    together = memory_of([os.getpid(), process.pid])
    ours.send(None)
    process.join()
    assert alone > 50 << 20  # torch is loaded
    assert together < 1.5 * alone
    before = memory_of([os.getpid()])
    frames = os.memfd_create("frames")
    os.write(frames, bytes(1 << 24))
    after = memory_of([os.getpid()])
    os.close(frames)
    assert 1 << 23 < after - before < 1 << 25


def test_the_table_has_every_pipeline_and_a_decode_a_question_costs_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {**TINY._asdict(), "workers": 1, "batch-size": 1, "batches": 3, "rounds": 1, "clock": "cpu"}
    main([*(f"--{name}={value}" for name, value in options.items()), "--no-memory"])
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:-3])}
    assert list(rows) == list(PIPELINES)
    assert rows["decoding in the workers"][1] == rows["decoding in their servers"][2] == "1.00"
    assert rows["one decode a question"][4] == "1.00"
    assert float(rows["datamodule"][4]) > 1.5


def test_peak_memory_holds_at_least_the_imports(material: Material) -> None:
    assert measure_peak("decoding in the workers", Workload(material, 1, 1, 2)) > 50 << 20


def test_a_pipeline_that_fails_ends_the_run(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(workload: Workload) -> None:
        raise OSError

    monkeypatch.setitem(PIPELINES, "datamodule", fail)
    with pytest.raises(RuntimeError, match="'datamodule' failed"):
        measure_cost("datamodule", Workload(material, 0, 1, 1), "cpu")
