"""One wrong sample ends no validation, test, prediction or evaluation: it is listed, counted and not scored."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import train
from apps.evaluate import command as evaluate
from datamodules.errors import TooManySkippedError
from lightning_modules.evaluation.predictions import read_predictions
from lightning_modules.video_language import VideoLanguageModule
from tests import run_commands
from tests.components.tiny_language import make_model_folder
from tests.fixtures_data import RawSample, make_clip, make_image, make_record, write_members, write_shard
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_part_folders
from tests.fixtures_training import write_run_config
from tests.process_group import one_group_at_a_time, run_processes

LONG = "what colour is the circle ? " * 30
CLIP = make_clip(4, width=IMAGE_SIZE, height=IMAGE_SIZE)


def good(count: int, name: str = "good") -> list[RawSample]:
    return [
        (f"{name}{number}", make_record([("say hello", "hello")], category="chat", media=False), None, None)
        for number in range(count)
    ]


def broken(count: int = 3) -> list[RawSample]:
    """A video that is cut off, a conversation that is too long, and one without an answer."""
    answerless = {"conversations": [{"id": "q0", "turns": [{"role": "user", "content": "<video>\nwhat ?"}]}]}
    return [
        ("cut", make_record(meta={"media": "films/cut.mp4"}), CLIP[:300], "mp4"),
        ("long", make_record([(LONG, "red")], media=False), None, None),
        ("answerless", answerless, make_image(), "png"),
    ][:count]


KINDS = {"cut": "media", "long": "length", "answerless": "sample"}


class Place(NamedTuple):
    """Where the tests write, and the parts."""

    folder: Path
    parts: PartFolders


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> PartFolders:
    return make_part_folders(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def place(tmp_path: Path, parts: PartFolders) -> Place:
    return Place(tmp_path, parts)


def write_unchecked(path: Path, samples: list[RawSample]) -> Path:
    """A shard as another program may write it."""
    members = []
    for key, record, media, ending in samples:
        members.append((f"{key}.json", json.dumps(record).encode()))
        if media is not None:
            members.append((f"{key}.{ending}", media))
    return write_members(path, members)


def write_config(place: Place, judged: list[RawSample], **loading: Any) -> Path:
    """Settings of a run that trains on good samples and is judged on others; ``on_error`` is its default."""
    shard = str(write_unchecked(place.folder / "judged.tar", judged))
    trained = str(write_shard(place.folder / "train.tar", good(3, "trained")))
    shards = {"train": trained, "validation": shard, "predict": shard}
    path = write_run_config(place.folder, place.parts, shards)
    settings = yaml.safe_load(path.read_text())
    settings["data"]["test"] = {"1x": shard}
    settings["data"]["loading"] |= {"max_length": 100, "eval_batch_size": 8, **loading}
    path.write_text(yaml.safe_dump(settings))
    return path


def judge(place: Place, config: Path, *more: str) -> dict[str, Any]:
    """The pretrained weights of the settings, judged."""
    shard = str(place.folder / "judged.tar")
    fixed = ["--config", str(config), "--data", shard, "--out", str(place.folder / "judged")]
    return evaluate.main([*fixed, *more])


def read_list(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == len(lines)
    return {line["key"]: line for line in lines}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_validation_in_training_leaves_wrong_samples_out_and_counts_them(
    place: Place, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    judged = [*good(15), *broken(), *good(15, "more")]
    config = write_config(place, judged, num_workers=num_workers)
    cli = train.main(["fit", "-c", str(config), "--validation.every_n_steps=1"])
    assert cli.trainer.global_step == 2
    assert float(cli.trainer.callback_metrics["val/skipped_samples/1x"]) == 3
    assert "val/skipped_samples/1x: 3" in caplog.text
    assert sum(accuracy.total for accuracy in cli.model.metrics.counter.by().values()) == 30
    listed = read_list(Path(str(cli.trainer.log_dir)) / "skipped_validation.jsonl")
    assert {key: line["kind"] for key, line in listed.items()} == KINDS
    assert listed["cut"]["media"] == "films/cut.mp4"
    assert "cannot be decoded" in listed["cut"]["reason"]
    assert "max_length is 100" in listed["long"]["reason"]


@pytest.mark.parametrize(("command", "sources"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_judging_by_itself_says_at_the_end_what_was_left_out(place: Place, command: str, sources: str) -> None:
    config = write_config(place, [*broken(), *good(30)])
    with pytest.warns(UserWarning, match=r"3 of 33 samples were left out \(1 of kind .*neither as right nor as wrong"):
        cli = train.main([command, "-c", str(config)])
    folder = Path(str(cli.trainer.log_dir))
    assert set(read_list(folder / f"skipped_{sources}.jsonl")) == set(KINDS)
    if command == "predict":
        assert len(read_predictions(folder / "predictions.jsonl")) == 30


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_judging_less_than_the_share_fails_after_its_results_are_there(place: Place, command: str) -> None:
    config = write_config(place, [*broken(), *good(8)])
    message = r"3 of 11 samples were left out .*more than max_skipped_share allows \(0\.1\).*skipped_\w+\.jsonl"
    with pytest.warns(UserWarning, match="3 of 11"), pytest.raises(TooManySkippedError, match=message):
        train.main([command, "-c", str(config)])
    if command == "predict":
        (answers,) = place.folder.glob("run/*/predictions.jsonl")
        assert len(read_predictions(answers)) == 8
    with pytest.warns(UserWarning, match="3 of 11"):
        train.main([command, "-c", str(config), "--data.loading.failures.max_skipped_share=0.5"])


@pytest.mark.parametrize("number", range(3))
def test_one_wrong_sample_of_few_ends_nothing(place: Place, number: int) -> None:
    config = write_config(place, [broken()[number], *good(2)])
    train.main(["fit", "-c", str(config)])
    train.main(["validate", "-c", str(config)])
    assert judge(place, config)["skipped"]["samples"] == 1


def test_training_still_ends_at_a_wrong_sample_unless_it_may_be_skipped(place: Place) -> None:
    config = write_config(place, good(3))
    write_unchecked(place.folder / "train.tar", [*good(3), broken()[0]])
    with pytest.raises(ValueError, match="key 'cut': the video cannot be decoded"):
        train.main(["fit", "-c", str(config), "--trainer.max_steps=4"])


def test_the_report_names_what_was_left_out_by_kind_with_file_and_reason(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(place, [*good(15), *broken(), *good(15, "more")])
    with caplog.at_level(logging.WARNING):
        report = judge(place, config)
    assert report["accuracy"]["questions"] == 30
    skipped = report["skipped"]
    assert (skipped["samples"], skipped["by_kind"]) == (3, {"media": 1, "length": 1, "sample": 1})
    assert {sample["key"]: sample["kind"] for sample in skipped["which"]} == KINDS
    written = json.loads((place.folder / "judged/report.json").read_text(encoding="utf-8"))
    assert written == report
    text = (place.folder / "judged/report.md").read_text(encoding="utf-8")
    assert "Samples that could not be evaluated: 3 (media: 1, length: 1, sample: 1)." in text
    assert "neither as right nor as wrong" in text
    assert "| cut | films/cut.mp4 | media | shard " in text
    assert "(made from films/cut.mp4)" in caplog.text


def test_an_evaluation_that_is_taken_up_again_does_not_try_the_listed_samples(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(place, [*broken(), *good(30)])
    report = judge(place, config)
    with monkeypatch.context() as patched:
        patched.setattr(VideoLanguageModule, "predict_step", lambda *_: pytest.fail("asked again"))
        assert judge(place, config) == report
    lines = (place.folder / "judged/skipped.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place.folder / "judged/skipped.jsonl").write_text(lines[0])  # the other two are tried again, and found wrong again
    assert judge(place, config) == report
    assert judge(place, config, "--restart") == report


def test_an_evaluation_of_too_little_fails_once_its_report_is_written(place: Place) -> None:
    config = write_config(place, [*broken(), *good(8)])
    message = r"3 of 11 samples were left out .*raise --max-skipped-share"
    for _ in range(2):
        with pytest.raises(TooManySkippedError, match=message):
            judge(place, config)
    written = json.loads((place.folder / "judged/report.json").read_text(encoding="utf-8"))
    assert (written["accuracy"]["questions"], written["skipped"]["samples"]) == (8, 3)
    assert judge(place, config, "--max-skipped-share=0.5") == written


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_wrong_samples_in_a_row_end_an_evaluation_with_a_report_on_what_it_has(
    place: Place, num_workers: int
) -> None:
    row = [(f"cut{number}", make_record(), CLIP[:300], "mp4") for number in range(4)]
    bounds = {"max_skipped_in_a_row": 3, "max_skipped_share": 0.4}
    config = write_config(
        place, [*good(8), *row, *good(2, "late")], eval_batch_size=2, failures=bounds, num_workers=num_workers
    )
    with pytest.raises(TooManySkippedError, match="4 samples in a row were left out"):
        judge(place, config)
    written = json.loads((place.folder / "judged/report.json").read_text(encoding="utf-8"))
    assert written["accuracy"]["questions"] + written["evaluated"]["conversations not asked yet"] == 10
    report = judge(place, config)  # goes on behind them
    assert (report["accuracy"]["questions"], report["skipped"]["samples"]) == (10, 4)
    assert "conversations not asked yet" not in report["evaluated"]


def test_an_evaluation_that_answers_nothing_says_why(place: Place) -> None:
    config = write_config(place, broken())
    with pytest.raises(TooManySkippedError, match=r"no question was answered: 3 of 3 .*skipped\.jsonl says why"):
        judge(place, config)


def test_a_conversation_that_only_the_language_model_finds_too_long_is_left_out(place: Place) -> None:
    narrow = make_model_folder(place.folder / "narrow", max_position_embeddings=64)
    too_long = [(f"wide{number}", make_record([(LONG[:400], "red")], media=False), None, None) for number in range(2)]
    judged = [*good(3), too_long[0], *good(15, "more"), too_long[1], *good(1, "last")]
    place = Place(place.folder, PartFolders(place.parts.encoder, str(narrow)))
    config = write_config(place, judged, eval_batch_size=3)
    report = judge(place, config)
    assert report["skipped"]["by_kind"] == {"model limit": 2}
    assert "max_position_embeddings" in report["skipped"]["which"][0]["reason"]
    assert report["accuracy"]["questions"] == 19
    assert judge(place, config) == report


@one_group_at_a_time
@pytest.mark.slow
def test_ranks_of_which_one_reads_only_wrong_samples_judge_the_others_and_count_together(place: Place) -> None:
    row = [(f"cut{number}", make_record(), CLIP[:300], "mp4") for number in range(3)]
    config = write_config(place, [*row, *good(13)], batch_size=4, eval_batch_size=4)
    share = "--data.loading.failures.max_skipped_share=0.5"
    sources = {"fit": "validation", "validate": "validation", "predict": "predict"}
    options = ["-c", str(config), "--trainer.devices=2", share]
    file = place.folder / "commands.json"
    file.write_text(json.dumps([[each, *options, f"--trainer.logger.init_args.name={each}"] for each in sources]))
    run_processes(run_commands.__name__, [str(file)], 2, folder=place.folder)
    results = json.loads(file.with_suffix(".results.json").read_text())
    for (command, source), result in zip(sources.items(), results, strict=True):
        assert result["world_size"] == 2
        if command != "predict":
            assert result["metrics"]["val/skipped_samples/1x"] == 3
        (listed,) = place.folder.glob(f"{command}/*/skipped_{source}.jsonl")
        assert set(read_list(listed)) == {key for key, *_ in row}
