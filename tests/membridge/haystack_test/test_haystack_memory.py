"""An hour of video needs no more memory than a minute."""

import tracemalloc

import pytest

from components.pretrained.frame_settings import FrameSettings
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, planned_video
from membridge.haystack_test.backgrounds import MadeBackground
from membridge.haystack_test.made_video import MadeVideo
from tests.child_program import results_of

READ_MINUTES = """
    import resource, sys, tempfile
    from pathlib import Path
    import torch
    from benchmarks.tiny_parts import write_encoder
    from components.pretrained.frame_settings import FrameSettings, TrainingFacts
    from components.segmenters.fixed_length import FixedLength
    from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid
    from membridge.evaluation.item_answers import AskingSettings
    from membridge.haystack_test.backgrounds import MadeBackground
    from membridge.haystack_test.haystack_run import HaystackRun
    from tests.components.tiny_language import make_model_folder
    from tests.fixtures_models import PartFolders, make_model

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    language = make_model_folder(folder / "language_model", max_position_embeddings=256)
    encoder = write_encoder(folder / "encoder", 112, intermediate_size=48)
    model = make_model(PartFolders(str(encoder), str(language)), segmenter=FixedLength(16))
    model.training_facts = TrainingFacts(FrameSettings(112, num_frames=None, fps=1.0), 1)
    results = []
    for seconds in (60, 3600):
        benchmark = HaystackBenchmark(HaystackGrid((seconds,), (0.5,), controls=0), chosen_by="text")
        run = HaystackRun(benchmark, benchmark.read().items, MadeBackground(), folder, {}, AskingSettings(0))
        [line] = run.lines(model).values()
        results.append([line.get("frames"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
"""


@pytest.mark.slow
def test_making_an_hour_of_frames_holds_no_more_of_them_than_making_a_minute() -> None:
    benchmark = HaystackBenchmark(HaystackGrid((60, 3600), (0.5,), controls=0))
    peaks = []
    for item in benchmark.read().items:
        video = MadeVideo(planned_video(item), MadeBackground(), FrameSettings(112, num_frames=None, fps=1.0))
        tracemalloc.start()
        count = sum(len(times) for _, times in video.pieces())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == planned_video(item).cell.duration_ms // 1000
    assert peaks[1] < peaks[0] + 2**20


@pytest.mark.slow
def test_a_model_that_streams_an_hour_needs_no_more_memory_than_for_a_minute() -> None:
    (few, after_a_minute), (many, after_an_hour) = results_of(READ_MINUTES)
    assert (few, many) == (60, 3600)
    frames_mb = 3600 * 3 * 112 * 112 / 2**20  # 129; their features are as many again
    assert after_an_hour - after_a_minute < frames_mb / 4
