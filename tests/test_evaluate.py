import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf

import train
from apps.evaluate import command as evaluate
from components.turns import TurnAnswer
from lightning_modules.evaluation.predictions import Prediction, read_predictions, score_answers, to_json_lines
from lightning_modules.export import export
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_data import (
    RawSample,
    make_clip,
    make_image,
    make_record,
    make_tiny_tokenizer,
    with_later_turns,
    write_shard,
)
from tests.fixtures_models import IMAGE_SIZE, make_part_folders
from tests.fixtures_training import write_run_config

QUESTIONS = [("which colour ?", "red"), ("which shape ?", "circle")]


class Run(NamedTuple):
    """A small finished training run and shards to evaluate it on."""

    folder: Path
    config: Path
    checkpoint: Path
    shards: list[str]


def held_out_samples() -> list[RawSample]:
    """Three videos of two lengths, an image and plain text: 8 questions."""
    clips = [make_clip(num_frames, width=IMAGE_SIZE, height=IMAGE_SIZE) for num_frames in (6, 8, 12)]
    lengths = ["1x", "1x", "2x"]
    videos = [
        (f"video{number}", make_record(QUESTIONS, meta={"length": length}), clip, "mp4")
        for number, (clip, length) in enumerate(zip(clips, lengths, strict=True))
    ]
    image = ("image", make_record([("how many ?", "one")], category="count"), make_image(), "png")
    words = ("words", make_record([("say hello", "hello")], category="chat", media=False), None, None)
    return [*videos, image, words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    samples = held_out_samples()
    first = write_shard(folder / "held-out-0.tar", samples[:2])
    second = write_shard(folder / "held-out-1.tar", samples[2:])
    shards = {"train": str(first), "validation": str(first), "predict": str(folder / "held-out-*.tar")}
    config = write_run_config(folder, make_part_folders(folder), shards)
    train.main(["fit", "-c", str(config)])
    checkpoint = folder / "run" / "version_0" / "checkpoints" / "final.ckpt"
    return Run(folder, config, checkpoint, [str(first), str(second)])


@pytest.fixture
def run_evaluation(run: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(*more: str) -> dict[str, Any]:
        fixed = ["--checkpoint", str(run.checkpoint), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
        return evaluate.main([*fixed, *more])

    return call


def asked(predictions: list[Prediction]) -> list[tuple[str, str]]:
    return [(prediction.key, prediction.id) for prediction in predictions]


def approximate(predictions: list[Prediction]) -> list[Prediction]:
    """Likelihoods without the last digits, which depend on the other conversations of a batch."""
    return [each._replace(nll=None if each.nll is None else round(each.nll, 3)) for each in predictions]


ALL_QUESTIONS = [(key, id_) for key in ("video0", "video1", "video2") for id_ in ("q0", "q1")] + [
    ("image", "q0"),
    ("words", "q0"),
]


def test_every_question_is_answered_and_reported(run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = run_evaluation()
    out = tmp_path / "evaluation"
    predictions = read_predictions(out / "predictions.jsonl")
    assert asked(predictions) == ALL_QUESTIONS
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    assert {length: entry["questions"] for length, entry in report["by_length"].items()} == {
        "0": 1,
        "1": 1,
        "1x": 4,
        "2x": 2,
    }
    assert {name: entry["questions"] for name, entry in report["by_category"].items()} == {
        "chat": 1,
        "colour": 6,
        "count": 1,
    }
    assert report["accuracy"]["correct"] == sum(prediction.correct for prediction in predictions)
    assert (out / "report.md").is_file()
    assert (out / "accuracy_by_length.png").is_file()


def conversations_of_several_turns(folder: Path) -> Path:
    """A video with conversations of three turns and of one, the first with options; and text of two turns."""
    record = with_later_turns(make_record(QUESTIONS), ("and then ?", "blue square"), ("which colour ?", "red"))
    record["conversations"][0]["options"] = ["blue", "red"]
    words = with_later_turns(make_record([("say hello", "hello")], media=False, source="talks"), ("and ?", "hello"))
    clip = make_clip(6, width=IMAGE_SIZE, height=IMAGE_SIZE)
    return write_shard(folder / "turns.tar", [("video", record, clip, "mp4"), ("words", words, None, None)])


def test_every_turn_is_asked_and_a_stopped_evaluation_goes_on_between_conversations(run: Run, tmp_path: Path) -> None:
    shard, out = conversations_of_several_turns(tmp_path), tmp_path / "evaluation"
    command = ["--checkpoint", str(run.checkpoint), "--data", str(shard), "--out", str(out), "--batch-size", "1"]
    report = evaluate.main(command)
    path = out / "predictions.jsonl"
    expected = read_predictions(path)
    asked_turns = [(each.key, each.id, each.turn, each.num_turns) for each in expected]
    assert asked_turns == [*(("video", "q0", turn, 3) for turn in (1, 2, 3)), ("video", "q1", 1, 1)] + [
        ("words", "q0", turn, 2) for turn in (1, 2)
    ]
    assert [each.options for each in expected] == [("blue", "red"), (), ("blue", "red"), (), (), ()]
    assert report["options"]["questions"] == 2
    assert report["f1"]["questions"] == 4
    assert {name: entry["questions"] for name, entry in report["by_turn"].items()} == {"1": 3, "2": 2, "3": 1}
    assert {name: entry["questions"] for name, entry in report["by_source"].items()} == {"made": 4, "talks": 2}
    assert report["loss"]["tokens"] == sum(each.tokens for each in expected) > 6
    assert "conversations not asked yet" not in report["evaluated"]
    path.write_text(to_json_lines(expected[:5]), encoding="utf-8")  # stopped within the second sample
    assert evaluate.main(command) == report
    assert read_predictions(path) == expected


def test_loss_of_the_report_is_that_of_validation(run: Run, tmp_path: Path) -> None:
    shard, out = conversations_of_several_turns(tmp_path), tmp_path / "evaluation"
    report = evaluate.main(["--checkpoint", str(run.checkpoint), "--data", str(shard), "--out", str(out)])
    sets = f"--data.validation={json.dumps({'turns': str(shard)})}"
    cli = train.main(["validate", "-c", str(run.config), sets, "--ckpt_path", str(run.checkpoint)])
    loss = cli.trainer.callback_metrics["val/loss/turns"]
    assert report["loss"]["value"] == pytest.approx(float(loss), rel=1e-4)
    assert report["accuracy"]["value"] == pytest.approx(float(cli.trainer.callback_metrics["val/accuracy"]))


def test_answers_of_an_earlier_version_to_first_questions_alone_are_refused(run: Run, tmp_path: Path) -> None:
    shard, out = conversations_of_several_turns(tmp_path), tmp_path / "evaluation"
    command = ["--checkpoint", str(run.checkpoint), "--data", str(shard), "--out", str(out)]
    evaluate.main(command)
    path = out / "predictions.jsonl"
    first = [each._asdict() for each in read_predictions(path) if each.turn == 1]
    later_fields = Prediction._fields[Prediction._fields.index("turn") :]
    earlier = [{name: value for name, value in each.items() if name not in later_fields} for each in first]
    path.write_text("".join(json.dumps(each) + "\n" for each in earlier), encoding="utf-8")
    with pytest.raises(ValueError, match=r"an earlier version.*'video' has a conversation of 3.*--restart"):
        evaluate.main(command)
    assert evaluate.main([*command, "--restart"])["accuracy"]["questions"] == 6


def test_predict_of_the_command_line_writes_the_same_answers(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    writer = {
        "class_path": "lightning_modules.evaluation.predictions.PredictionWriter",
        "init_args": {"path": str(tmp_path / "a")},
    }
    callbacks = f"--trainer.callbacks={json.dumps([writer])}"
    train.main(["predict", "-c", str(run.config), callbacks, "--ckpt_path", str(run.checkpoint)])
    assert read_predictions(tmp_path / "a") == read_predictions(tmp_path / "evaluation" / "predictions.jsonl")


def test_stopped_evaluation_goes_on_and_asks_nothing_twice(
    run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = run_evaluation()
    path = tmp_path / "evaluation" / "predictions.jsonl"
    expected = read_predictions(path)
    batches: list[list[tuple[str, str]]] = []
    predict_step = VideoLanguageModule.predict_step

    def stops(self: Any, batch: Any, *args: Any) -> list[TurnAnswer]:
        if batches:
            raise RuntimeError("the power is out")
        return notes(self, batch, *args)

    def notes(self: Any, batch: Any, *args: Any) -> list[TurnAnswer]:
        answers = predict_step(self, batch, *args)
        batches.append(asked(score_answers(batch.questions, answers)))
        return answers

    monkeypatch.setattr(VideoLanguageModule, "predict_step", stops)
    with pytest.raises(RuntimeError, match="the power is out"):
        run_evaluation("--restart", "--batch-size", "2")
    assert approximate(read_predictions(path)) == approximate(expected[:4])
    with path.open("a", encoding="utf-8") as file:  # cut off while the next batch was written
        file.write(json.dumps(expected[4]._asdict()) + "\n" + '{"key": "video2", "id"')
    batches.clear()
    monkeypatch.setattr(VideoLanguageModule, "predict_step", notes)
    resumed = run_evaluation("--batch-size", "3")  # the batch size may change
    assert [pair for batch in batches for pair in batch] == ALL_QUESTIONS[4:]
    assert approximate(read_predictions(path)) == approximate(expected)
    assert resumed.pop("loss") == pytest.approx(uninterrupted.pop("loss"))
    assert resumed == uninterrupted


def test_finished_evaluation_is_reported_again_without_asking(
    run_evaluation: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run_evaluation()
    monkeypatch.setattr(VideoLanguageModule, "predict_step", lambda *_: pytest.fail("asked again"))
    assert run_evaluation() == report


def test_answers_of_another_evaluation_are_not_mixed_in(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    with pytest.raises(ValueError, match=r"holds answers of another evaluation: max_new_tokens differ.*--restart"):
        run_evaluation("--max-new-tokens", "1")
    report = run_evaluation("--max-new-tokens", "1", "--restart")
    assert report["accuracy"]["questions"] == len(ALL_QUESTIONS)
    assert report["evaluated"]["max_new_tokens"] == 1


def test_foreign_file_of_predictions_is_not_taken_over(
    run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "predictions.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds answers of another evaluation"):
        run_evaluation()


def test_checkpoint_knows_its_config_wherever_it_lies(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    copied = shutil.copytree(run.checkpoint, tmp_path / "elsewhere.ckpt")
    evaluate.main(["--checkpoint", str(copied), "--data", *run.shards, "--out", str(tmp_path / "again")])
    answers = [read_predictions(tmp_path / out / "predictions.jsonl") for out in ("evaluation", "again")]
    assert answers[0] == answers[1]


def test_checkpoint_without_a_config_asks_for_it(run: Run, tmp_path: Path) -> None:
    lonely = shutil.copytree(run.checkpoint, tmp_path / "lonely.ckpt")
    (lonely / "config.yaml").rename(tmp_path / "config.yaml")
    index = json.loads((lonely / "index.json").read_text())
    del index["files"]["config.yaml"]
    del index["hashes"]["config.yaml"]
    (lonely / "index.json").write_text(json.dumps(index))
    command = ["--checkpoint", str(lonely), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    with pytest.raises(ValueError, match=r"lonely.ckpt does not hold the config of its run; name the config"):
        evaluate.main(command)
    report = evaluate.main([*command, "--config", str(tmp_path / "config.yaml")])
    assert report["accuracy"]["questions"] == len(ALL_QUESTIONS)


def test_export_is_evaluated_as_its_checkpoint_is(
    run: Run, run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run_evaluation()
    export(run.checkpoint, tmp_path / "export")
    command = ["--checkpoint", str(tmp_path / "export"), "--data", *run.shards, "--out", str(tmp_path / "again")]
    evaluate.main(command)
    answers = [read_predictions(tmp_path / out / "predictions.jsonl") for out in ("evaluation", "again")]
    assert answers[0] == answers[1]


def test_averages_of_a_run_without_any_are_refused(run_evaluation: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"final.ckpt|step-.* has no running averages"):
        run_evaluation("--averaged")


def test_missing_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint nowhere\.ckpt"):
        evaluate.main(["--checkpoint", "nowhere.ckpt", "--data", *run.shards, "--out", str(tmp_path)])


def test_checkpoint_of_other_parts_is_refused(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.model.bridge = {"class_path": "components.bridges.mean_pooling.MeanPooling"}
    OmegaConf.save(config, tmp_path / "other.yaml")
    command = ["--checkpoint", str(run.checkpoint), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    with pytest.raises(ValueError, match="the checkpoint does not fit the configured model"):
        evaluate.main([*command, "--config", str(tmp_path / "other.yaml")])


def test_broken_samples_that_were_skipped_are_counted(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.data.loading.failures = {"on_error": "skip", "skipped_file": str(tmp_path / "skipped.jsonl")}
    OmegaConf.save(config, tmp_path / "skip.yaml")
    broken = ("broken", make_record(QUESTIONS), b"no video", "mp4")
    shard = write_shard(tmp_path / "broken.tar", [broken, *held_out_samples()[:1]])
    command = ["--checkpoint", str(run.checkpoint), "--data", str(shard), "--out", str(tmp_path / "evaluation")]
    report = evaluate.main([*command, "--config", str(tmp_path / "skip.yaml")])
    assert report["accuracy"]["questions"] == 2
    assert report["evaluated"]["conversations left out, because their sample is broken"] == 2


def test_evaluation_writes_nothing_outside_its_folder(
    run_evaluation: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_evaluation()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_tokenizer_and_chat_settings_that_are_not_the_language_models_are_refused(run: Run, tmp_path: Path) -> None:
    config = OmegaConf.load(run.folder / "run" / "version_0" / "config.yaml")
    config.data.tokenizer = str(make_tiny_tokenizer(tmp_path / "other", words=["user", "assistant", "which", "colour"]))
    config.data.loading.chat = {"date": "2031-05-06"}
    OmegaConf.save(config, tmp_path / "other.yaml")
    options = ["--data", *run.shards, "--out", str(tmp_path / "evaluation"), "--config"]
    for command in (["--checkpoint", str(run.checkpoint), *options], options):
        with pytest.raises(ValueError, match=r"2 things are wrong.*data\.tokenizer.*data\.loading\.chat"):
            evaluate.main([*command, str(tmp_path / "other.yaml")])
    # Nothing was asked, so the folder belongs to no evaluation yet.
    evaluate.main([*options, str(run.config)])


def test_a_part_may_be_named_by_its_class_alone(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.load(run.config)
    config.model.bridge = "components.bridges.mean_pooling.MeanPooling"
    OmegaConf.save(config, tmp_path / "short.yaml")
    command = ["--config", str(tmp_path / "short.yaml"), "--data", *run.shards, "--out", str(tmp_path / "evaluation")]
    assert evaluate.main(command)["accuracy"]["questions"] == len(ALL_QUESTIONS)
    assert "runs with random weights of bridge" in capfd.readouterr().err


def test_a_config_that_lacks_a_section_is_told_so(run: Run, tmp_path: Path) -> None:
    part = tmp_path / "part.yaml"
    part.write_text("data: {pixels: {size: 16}}\n")
    with pytest.raises(ValueError, match="the config has no model: give all files"):
        evaluate.main(["--config", str(part), "--data", *run.shards, "--out", str(tmp_path / "evaluation")])
