"""A benchmark is answered once by any number of processes, and a stopped run continues."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.segmenters.fixed_length import FixedLength
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from membridge.evaluation.benchmark_run import BenchmarkRun, Share
from membridge.evaluation.item_answers import AskingSettings
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model
from tests.membridge.evaluation.made_benchmark import MadeBenchmark, made_items, write_clips, write_frame_folder

ASKING = AskingSettings(max_new_tokens=3)


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, segmenter=FixedLength(2))
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=None, fps=2.0), 4)
    return built


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 4)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def run_of(items: list[BenchmarkItem], videos: Path, out: Path, **changes: Any) -> BenchmarkRun:
    return BenchmarkRun(MadeBenchmark(items), items, videos, out, {"model": "tiny"}, ASKING, **changes)


def without_seconds(answers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        identity: {name: value for name, value in line.items() if not name.endswith("_seconds")}
        for identity, line in answers.items()
    }


def test_processes_answer_every_item_once_and_as_one_process_does(
    model: VideoLanguageModel, videos: Path, tmp_path: Path
) -> None:
    items = made_items(4)
    one = run_of(items, videos, tmp_path / "one")
    one.answer(model)
    assert one.is_complete()
    three = run_of(items, videos, tmp_path / "three")
    for rank in (2, 0, 1):  # in any order
        assert not three.is_complete()
        three.answer(model, Share(rank, 3))
    assert without_seconds(three.answers()) == without_seconds(one.answers())
    lines = [line for path in (tmp_path / "three").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(item.id for item in items)


def test_a_stopped_run_continues_with_the_videos_that_are_left(
    model: VideoLanguageModel, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = made_items(4)
    run = run_of(items, videos, tmp_path)
    run.answer(model)
    complete = run.answers()
    [path] = tmp_path.glob("answers.*.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # killed while it wrote a line
    left = run_of(items, videos, tmp_path)
    answered = left.answers()
    media_left = {item.media for item in items if item.id not in answered}
    assert 0 < len(media_left) < 4
    asked: list[str] = []
    ask = BenchmarkRun.ask_group
    monkeypatch.setattr(
        BenchmarkRun,
        "ask_group",
        lambda self, net, some: asked.extend(item.id for item in some) or ask(self, net, some),
    )
    left.answer(model)
    assert set(asked) == {item.id for item in items if item.media in media_left}
    assert without_seconds(left.answers()) == without_seconds(complete)
    left.answer(model)
    assert len(asked) == 3 * len(media_left)
    assert len(path.read_text().splitlines()) == len(items)


def test_an_item_without_media_has_a_reason_and_is_tried_again(
    model: VideoLanguageModel, videos: Path, tmp_path: Path
) -> None:
    items = made_items(1)
    missing = items[0]._replace(id="missing", media=(MediaPart("late"),))
    broken = items[0]._replace(id="broken", media=(MediaPart("broken.mp4"),))
    outside = items[0]._replace(id="outside", media=(MediaPart("../clip0.mp4"),))
    nothing = items[0]._replace(id="nothing", media=(MediaPart("clip0", 9000, 10_000),))
    run = run_of([*items, missing, broken, outside, nothing], videos, tmp_path)
    run.answer(model)
    answers = run.answers()
    assert run.is_complete()
    assert "there is no" in answers["missing"]["error"]
    assert "broken.mp4" in answers["broken"]["error"]
    assert "not inside the folder" in answers["outside"]["error"]
    assert "after" in answers["nothing"]["error"]
    assert all("scores" in answers[item.id] for item in items)
    write_frame_folder(videos / "late", 4)
    found = missing._replace(media=(MediaPart("late", frames_per_second=2),))
    again = run_of([*items, found], videos, tmp_path)
    again.answer(model)
    assert "error" not in again.answers()["missing"]


def test_answers_of_another_model_are_not_continued(model: VideoLanguageModel, videos: Path, tmp_path: Path) -> None:
    items = made_items(2)
    run_of(items, videos, tmp_path).answer(model)
    other = BenchmarkRun(MadeBenchmark(items), [*items, items[0]._replace(id="new")], videos, tmp_path, {"model": "b"})
    with pytest.raises(ValueError, match="model was 'tiny', is 'b'"):
        other.answer(model)


def test_scores_are_those_of_every_scorer_that_applies(model: VideoLanguageModel, videos: Path, tmp_path: Path) -> None:
    closed, free = made_items(1)[:2]
    run = run_of([closed, free._replace(options=(), answer=None)], videos, tmp_path)
    run.answer(model)
    answers = run.answers()
    assert list(answers[closed.id]["scores"]) == ["likelihood", "generated (strict)", "generated (lenient)"]
    assert answers[closed.id]["scores"]["likelihood"] == float(answers[closed.id]["chosen"] == closed.answer)
    assert list(answers[free.id]["scores"]) == ["exact match", "token F1"]


def test_a_question_while_a_video_plays_is_that_about_the_video_so_far(
    model: VideoLanguageModel, videos: Path, tmp_path: Path
) -> None:
    items = made_items(2, ask_s=(3.0, 1.0, 60.0))  # out of order, and after the end
    session = run_of(items, videos, tmp_path / "session")
    session.answer(model)
    clip = run_of(items, videos, tmp_path / "clip", timed="clip")
    clip.answer(model)
    played, cut = session.answers(), clip.answers()
    assert [line["frames"] for line in played.values()] == [6, 6, 2, 2, 8, 8]
    for identity, line in played.items():
        assert line["frames"] == cut[identity]["frames"]
        assert (line["text"], line["prompt_tokens"]) == (cut[identity]["text"], cut[identity]["prompt_tokens"])
        assert line["likelihoods"] == pytest.approx(cut[identity]["likelihoods"], abs=1e-5)


def test_a_question_before_the_first_frame_has_a_reason(
    model: VideoLanguageModel, videos: Path, tmp_path: Path
) -> None:
    run = run_of(made_items(1, ask_s=(0.0, 1.0, 2.0)), videos, tmp_path)
    run.answer(model)
    assert "no frame is shown before 0 s" in run.answers()["q0-0"]["error"]
    assert "error" not in run.answers()["q1-0"]


def test_a_model_that_cannot_stream_refuses_videos_that_play_and_names_the_other_way(
    model: VideoLanguageModel, folders: PartFolders, videos: Path, tmp_path: Path
) -> None:
    items = made_items(1, ask_s=(1.0, 2.0, 3.0))
    fixed = make_model(folders, segmenter=FixedLength(2))
    fixed.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=4), 4)
    with pytest.raises(ValueError, match="--timed clip"):
        run_of(items, videos, tmp_path).answer(fixed)
    run_of(items, videos, tmp_path, timed="clip").answer(fixed)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Share(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Share(1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Share(0, 2)),
    ],
)
def test_a_process_knows_its_share_from_its_launcher(environment: dict[str, str], share: Share) -> None:
    assert Share.of_environment(environment) == share


def test_a_rank_outside_its_group_is_refused() -> None:
    with pytest.raises(ValueError, match="RANK is 4"):
        Share.of_environment({"RANK": "4", "WORLD_SIZE": "4"})
