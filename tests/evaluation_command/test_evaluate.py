import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from apps.evaluate import command as evaluate
from components.turns import TurnAnswer
from lightning_modules.evaluation.predictions import Prediction, read_predictions, score_answers, to_json_lines
from lightning_modules.video_language import VideoLanguageModule
from tests.evaluation_command.held_out_run import ALL_QUESTIONS, QUESTIONS, Run, approximate, asked
from tests.fixtures_data import make_clip, make_record, with_later_turns, write_shard
from tests.fixtures_models import IMAGE_SIZE


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
