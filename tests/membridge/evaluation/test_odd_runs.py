"""Odd questions have a reason instead of an answer, and answers of something else are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.segmenters.fixed_length import FixedLength
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from membridge.evaluation.benchmark_run import BenchmarkRun
from membridge.evaluation.item_answers import AskingSettings
from membridge.evaluation.scored_runs import read_scored_run
from membridge.evaluation.scorers import lenient_choice
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model
from tests.membridge.evaluation.made_benchmark import MadeBenchmark, made_items, write_clips

MANY = tuple(f"number {number}" for number in range(30))


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, segmenter=FixedLength(2))
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=2.0), 4)
    return built


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 1)
    return folder


def run_of(items: list[BenchmarkItem], videos: Path, out: Path, model: str = "tiny", **settings: str) -> BenchmarkRun:
    return BenchmarkRun(MadeBenchmark(items, **settings), items, videos, out, {"model": model}, AskingSettings(3))


@pytest.fixture
def answered(model: VideoLanguageModel, videos: Path, tmp_path: Path) -> tuple[BenchmarkRun, Path]:
    """A run whose items all have an answer, and its file of answers."""
    run = run_of(made_items(1), videos, tmp_path)
    run.answer(model)
    return run, tmp_path / "answers.0-of-1.jsonl"


@pytest.mark.parametrize("ask_ms", [None, 2000], ids=["complete", "playing"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "is <video> like <video> ?"}, "2 <video> marks for 1 media"),
        ({"question": "half \ud800"}, "half a character"),
        ({"options": ("\udc00", "b")}, "half a character"),
        ({"options": MANY}, "30 options, but letters can name 26 only; set chosen_by: text"),
        ({"question": "word " * 100_000}, "max_position_embeddings"),
        ({"media": (MediaPart("clip0", -1000),)}, "before it begins"),
    ],
)
def test_a_question_that_cannot_be_asked_has_a_reason_and_the_others_are_answered(
    model: VideoLanguageModel, videos: Path, tmp_path: Path, changes: dict[str, Any], reason: str, ask_ms: int | None
) -> None:
    good, *others = (item._replace(ask_ms=ask_ms) for item in made_items(1))
    run = run_of([good, good._replace(id="odd\n/\ud800", **changes), *others], videos, tmp_path)
    run.answer(model)
    answers = run.answers()
    assert reason in answers.pop("odd\n/\ud800")["error"]
    assert len(answers) == 3
    assert not any("error" in line for line in answers.values())


def test_more_options_than_letters_are_chosen_by_their_texts(
    model: VideoLanguageModel, videos: Path, tmp_path: Path
) -> None:
    item = made_items(1)[0]._replace(options=MANY, answer=29, reference=MANY[29])
    run = run_of([item], videos, tmp_path, chosen_by="text")
    run.answer(model)
    assert len(run.answers()[item.id]["likelihoods"]) == 30
    assert lenient_choice("it is number 29", MANY) == 29


def test_complete_answers_of_another_model_are_refused_too(answered: tuple[BenchmarkRun, Path], videos: Path) -> None:
    run, path = answered
    with pytest.raises(ValueError, match="model was 'tiny', is 'other'"):
        run_of(run.items, videos, path.parent, "other").answers()


@pytest.mark.parametrize(
    "changes",
    [{"question": "other ?"}, {"options": ("a", "b", "c", "d")}, {"answer": 3}, {"media": (MediaPart("clip9"),)}],
)
def test_answers_to_other_questions_are_refused(
    answered: tuple[BenchmarkRun, Path], videos: Path, changes: dict[str, Any]
) -> None:
    run, path = answered
    items = [run.items[0]._replace(**changes), *run.items[1:]]
    with pytest.raises(ValueError, match=rf"another question with the id 'q0-0': .*{next(iter(changes))}.* differ"):
        run_of(items, videos, path.parent).answers()


@pytest.mark.parametrize(
    "changes", [{"scores": None}, {"scores": {"likelihood": "1"}}, {"frames": "8"}, {"error": ""}, {"error": 5}]
)
def test_lines_that_are_no_complete_answer_are_named(
    answered: tuple[BenchmarkRun, Path], changes: dict[str, Any]
) -> None:
    run, path = answered
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps(line | changes) + "\n")
    with pytest.raises(ValueError, match=r"'q0-0' is no complete answer\. Remove the line"):
        run.answers()


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"scores": {}}', "[" * 100_000])
def test_a_damaged_report_is_not_compared(answered: tuple[BenchmarkRun, Path], report: str) -> None:
    _, path = answered
    (path.parent / "report.json").write_text(report)
    with pytest.raises(ValueError, match=r"report\.json is .*run the same evaluation again"):
        read_scored_run(path.parent)


@pytest.mark.parametrize("changes", [{"media": []}, {"scores": {"likelihood": float("nan")}}, {"scores": 1}])
def test_damaged_answers_are_not_compared(answered: tuple[BenchmarkRun, Path], changes: dict[str, Any]) -> None:
    _, path = answered
    (path.parent / "report.json").write_text('{"scores": {"likelihood": {}}, "evaluated": {}}')
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps(line | changes) + "\n")
    with pytest.raises(ValueError, match="'q0-0' is no complete answer"):
        read_scored_run(path.parent)
