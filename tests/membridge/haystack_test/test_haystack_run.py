"""A model on the haystack test: streamed and complete reading agree, and a stopped run continues."""

from pathlib import Path
from typing import Any

import pytest

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.segmenters.fixed_length import FixedLength
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, planned_video
from datamodules.haystack.video_plan import PlannedVideo
from membridge.evaluation.benchmark_run import Share
from membridge.evaluation.item_answers import AskingSettings
from membridge.evaluation.scorers import SCORERS, GradedAnswer
from membridge.haystack_test.backgrounds import MadeBackground
from membridge.haystack_test.haystack_run import HaystackRun, frames_read, num_unseen, usual_reading
from membridge.haystack_test.heat_map import draw_heat_map, heat_map
from membridge.haystack_test.made_video import PIECE, MadeVideo
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

BENCHMARK = HaystackBenchmark(HaystackGrid((3, 20), (0.0, 1.0)), all_orders=True, chosen_by="text")
PLAN: PlannedVideo = planned_video(BENCHMARK.read().items[0])


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, segmenter=FixedLength(2))
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=2.0), 4)
    return built


def run_in(out: Path, **changes: Any) -> HaystackRun:
    items = BENCHMARK.read().items
    return HaystackRun(BENCHMARK, items, MadeBackground(), out, {"model": "tiny"}, AskingSettings(3), **changes)


def without_seconds(run: HaystackRun) -> dict[str, dict[str, Any]]:
    return {
        identity: {name: value for name, value in line.items() if not name.endswith("_seconds")}
        for identity, line in run.answers().items()
    }


def test_a_streamed_video_has_the_answers_of_a_complete_one(model: VideoLanguageModel, tmp_path: Path) -> None:
    streamed, complete = run_in(tmp_path / "streamed"), run_in(tmp_path / "complete", reading="complete")
    for run in (streamed, complete):
        run.answer(model)
        assert run.is_complete()
    for identity, line in complete.answers().items():
        other = streamed.answers()[identity]
        assert other["likelihoods"] == pytest.approx(line["likelihoods"], abs=1e-4)
        for name in ("text", "chosen", "frames", "shown_s", "visual_tokens", "prompt_tokens", "scores"):
            assert other[name] == line[name], name


def test_a_killed_run_continues_and_ends_as_one_that_was_not_killed(model: VideoLanguageModel, tmp_path: Path) -> None:
    complete, killed = run_in(tmp_path / "complete"), run_in(tmp_path / "killed")
    complete.answer(model)
    killed.answer(model)
    [path] = (tmp_path / "killed").glob("answers.*.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert not killed.is_complete()
    run_in(tmp_path / "killed").answer(model)
    assert without_seconds(killed) == without_seconds(complete)
    assert killed.is_complete()


def test_processes_share_the_videos(model: VideoLanguageModel, tmp_path: Path) -> None:
    one, two = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    one.answer(model)
    for rank in range(2):
        two.answer(model, Share(rank, 2))
    assert without_seconds(two) == without_seconds(one)


def test_lines_without_a_file_are_those_of_a_file(model: VideoLanguageModel, tmp_path: Path) -> None:
    written, unwritten = run_in(tmp_path / "written"), run_in(tmp_path / "unwritten")
    written.answer(model)
    lines = unwritten.lines(model)
    assert {name: line["likelihoods"] for name, line in lines.items()} == {
        name: line["likelihoods"] for name, line in written.answers().items()
    }
    assert not (tmp_path / "unwritten").exists()


def test_a_model_that_reads_a_fixed_number_of_frames_gets_these_frames_only(
    folders: PartFolders, tmp_path: Path
) -> None:
    model = make_model(folders, segmenter=FixedLength(2))
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=4))
    assert usual_reading(model) == "complete"
    run = run_in(tmp_path, reading="complete")
    run.answer(model)
    assert {line["frames"] for line in run.answers().values()} == {4}
    # One frame in 5 s: the first and last needle of 1 s are between two of them.
    assert num_unseen(run.items, run.background, frames_read(model, "complete")) == 2


def test_a_model_that_can_stream_is_streamed(model: VideoLanguageModel) -> None:
    assert usual_reading(model) == "session"
    assert num_unseen(BENCHMARK.read().items, MadeBackground(), frames_read(model, "session")) == 0


def test_a_session_gets_all_frames_and_a_complete_video_no_more_than_the_model_reads(
    folders: PartFolders, tmp_path: Path
) -> None:
    model = make_model(folders, segmenter=FixedLength(2))
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=2.0, max_frames=10))
    for reading, expected in (("session", {6, 40}), ("complete", {6, 10})):
        lines = run_in(tmp_path, reading=reading).lines(model)
        assert {line["frames"] for line in lines.values()} == expected


def test_frames_come_in_pieces_with_the_times_of_a_file_that_the_model_reads() -> None:
    plan = PLAN._replace(cell=PLAN.cell._replace(duration_ms=100_000))
    video = MadeVideo(plan, MadeBackground(), FrameSettings(28, num_frames=None, fps=1.0))
    pieces = list(video.pieces())
    assert [len(times) for _, times in pieces] == [len(pixels) for pixels, _ in pieces] == [PIECE, PIECE, PIECE, 4]
    assert [time for _, times in pieces for time in times] == [500 + 1000 * second for second in range(100)]
    assert all(pixels.shape[1:] == (3, 28, 28) for pixels, _ in pieces)


def test_a_model_of_cached_features_is_refused() -> None:
    with pytest.raises(ValueError, match="reads cached features"):
        MadeVideo(PLAN, MadeBackground(), FrameSettings(None))


def test_free_answers_are_compared_by_words_and_graded(model: VideoLanguageModel, tmp_path: Path) -> None:
    benchmark = HaystackBenchmark(HaystackGrid((3,), (0.0,)), free_answers=True)
    items = benchmark.read().items
    graded: list[tuple[str, str]] = []

    def grade(question: str, reference: str, answer: str) -> float:
        graded.append((question, reference))
        return 0.5

    scorers = (*SCORERS, GradedAnswer(grade, "grade"))
    run = HaystackRun(benchmark, items, MadeBackground(), tmp_path, {}, AskingSettings(3), scorers=scorers)
    lines = run.lines(model)
    assert {tuple(line["scores"]) for line in lines.values()} == {("exact match", "token F1", "grade")}
    assert graded == [(item.question, item.reference) for item in items]
    values = heat_map(items, lines)
    assert values["scorers"]["grade"]["retrieval"]["with_needle"]["accuracy"] == [[0.5]]
    assert values["chance"]["retrieval"] == 0.0
    draw_heat_map(values, "grade")


def test_free_answers_in_all_orders_of_options_are_refused() -> None:
    with pytest.raises(ValueError, match="free answers have no options"):
        HaystackBenchmark(HaystackGrid((3,)), free_answers=True, all_orders=True)
