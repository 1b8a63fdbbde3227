import json
from pathlib import Path
from typing import Any

import pytest

from components.turns import TurnAnswer
from datamodules.batch import AskedTurn, Question, empty_text_sample
from lightning_modules.evaluation.asked_turns import asked_turns
from lightning_modules.evaluation.predictions import (
    Prediction,
    PredictionWriter,
    read_predictions,
    score_answers,
    to_json_lines,
)
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import make_loader, make_trainer


def make_question(**changes: Any) -> Question:
    question = Question("key", "q0", "made", "colour", "Which?", "red", (), 12, {"length": "2x"})
    return question._replace(**changes)


def test_answers_are_judged_and_labelled() -> None:
    questions = [make_question(), make_question(id="q1", answer="blue", meta={})]
    first, second = score_answers(questions, [TurnAnswer("Red."), TurnAnswer("red")])
    expected = Prediction("key", "q0", "made", "colour", "2x", "Which?", "red", "Red.", True, num_turns=1, f1=1.0)
    assert first == expected
    assert (second.length, second.correct) == ("12", False)  # without a named length, the number of frames


def test_a_stand_in_for_samples_that_were_left_out_is_not_judged() -> None:
    questions = [make_question(), *(each.question for each in empty_text_sample().conversations)]
    assert [each.id for each in score_answers(questions, [TurnAnswer("red")] * 2)] == ["q0"]


def test_every_turn_is_scored_and_names_its_number() -> None:
    question = make_question(later_turns=(AskedTurn("And then?", "blue square"),), seconds=12.5)
    first, second = score_answers([question], [TurnAnswer("red"), TurnAnswer("a square", nll=3.0, num_tokens=2)])
    assert [(each.turn, each.num_turns, each.seconds) for each in (first, second)] == [(1, 2, 12.5), (2, 2, 12.5)]
    assert (second.question, second.answer, second.correct) == ("And then?", "blue square", False)
    assert (second.f1, second.nll, second.tokens) == (pytest.approx(2 / 3), 3.0, 2)


def test_most_likely_option_is_chosen_where_the_reference_is_an_option() -> None:
    later = (AskedTurn("Why?", "I saw it"), AskedTurn("And then?", "Blue."))
    question = make_question(options=("blue", "red"), later_turns=later)
    assert [asked.options for asked in asked_turns([question])] == [("blue", "red"), (), ("blue", "red")]
    answers = [
        TurnAnswer("no", option_scores=(-2.0, -1.0)),
        TurnAnswer("no"),
        TurnAnswer("no", option_scores=(-2.0, -1.0)),
    ]
    found = score_answers([question], answers)
    assert [(each.choice, each.choice_correct) for each in found] == [("red", True), (None, None), ("red", False)]
    assert [each.options for each in found] == [("blue", "red"), (), ("blue", "red")]


def test_options_that_are_articles_are_told_apart() -> None:
    question = make_question(options=("The", "A"), answer="A")
    [found] = score_answers([question], [TurnAnswer("A", option_scores=(-2.0, -1.0))])
    assert (found.choice, found.choice_correct) == ("A", True)


def test_unequal_numbers_of_questions_and_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_answers([make_question(), make_question()], [TurnAnswer("red")])


def test_predictions_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    answers = ['say "yes"\nor | no', "größer", "\u2028"]
    questions = [make_question(id=str(number), options=("red", "blue")) for number in range(3)]
    predictions = score_answers(questions, [TurnAnswer(text, 0.1, 2, (-0.1, -7.0)) for text in answers])
    path = tmp_path / "predictions.jsonl"
    path.write_text(to_json_lines(predictions), encoding="utf-8")
    assert read_predictions(path) == predictions
    assert list(json.loads(path.read_text(encoding="utf-8").splitlines()[0])) == list(Prediction._fields)


def test_predictions_name_the_file_of_their_video_and_earlier_ones_without_it_are_read(tmp_path: Path) -> None:
    [named] = score_answers([make_question(meta={"media": "in/cat.mp4"})], [TurnAnswer("red")])
    assert json.loads(to_json_lines([named]))["media"] == "in/cat.mp4"
    path = tmp_path / "predictions.jsonl"
    first_fields = Prediction._fields[: Prediction._fields.index("media")]
    earlier = {name: getattr(named, name) for name in first_fields}
    path.write_text(json.dumps(earlier) + "\n", encoding="utf-8")
    assert read_predictions(path) == [named._replace(media="", num_turns=0, f1=None)]


def test_predictions_of_earlier_versions_name_the_category_kind(tmp_path: Path) -> None:
    [prediction] = score_answers([make_question()], [TurnAnswer("red")])
    path = tmp_path / "predictions.jsonl"
    path.write_text(to_json_lines([prediction]).replace('"category"', '"kind"'), encoding="utf-8")
    assert read_predictions(path) == [prediction]


def test_line_that_was_cut_off_while_writing_is_left_out(tmp_path: Path) -> None:
    predictions = score_answers([make_question(id=str(number)) for number in range(2)], [TurnAnswer("red")] * 2)
    path = tmp_path / "predictions.jsonl"
    path.write_text(to_json_lines(predictions)[:-20], encoding="utf-8")
    assert read_predictions(path) == predictions[:1]


@pytest.mark.parametrize("line", ["{", '{"key": "a"}', "[1]", ""])
def test_line_that_is_no_prediction_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(
        to_json_lines(score_answers([make_question()], [TurnAnswer("red")])) + line + "\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 2 is no prediction"):
        read_predictions(path)


def test_writer_writes_every_answer_of_predict(folders: PartFolders, tmp_path: Path) -> None:
    module, batch = make_module(folders), make_batch(folders)
    path = tmp_path / "made" / "answers.jsonl"
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter(str(path))])
    trainer.predict(module, make_loader([batch, batch]), return_predictions=False)
    expected = score_answers(batch.questions, module.built.evaluate_turns(batch, 3, [()] * 6))
    assert [(each.id, each.turn, each.num_turns) for each in expected[:3]] == [("q0", 1, 1), ("q1", 1, 2), ("q1", 2, 2)]
    assert read_predictions(path) == expected * 2


def test_writer_writes_into_the_runs_folder_by_default(folders: PartFolders, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter()])
    trainer.predict(make_module(folders), make_loader([make_batch(folders)]), return_predictions=False)
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 6


def test_writer_keeps_what_it_has_when_predict_fails(folders: PartFolders, tmp_path: Path) -> None:
    batch = make_batch(folders)
    broken = batch._replace(video_index=batch.video_index + 5)
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter()])
    with pytest.raises(ValueError, match="out of step"):
        trainer.predict(make_module(folders), make_loader([batch, broken]), return_predictions=False)
    assert len(read_predictions(tmp_path / "predictions.jsonl")) == 6


def test_writer_refuses_answers_of_an_earlier_run_unless_it_appends(folders: PartFolders, tmp_path: Path) -> None:
    module, loader = make_module(folders), make_loader([make_batch(folders)])
    path = tmp_path / "answers.jsonl"
    for append, expected in ((True, 6), (True, 12)):
        writer = PredictionWriter(str(path), append=append)
        make_trainer(tmp_path, callbacks=[writer]).predict(module, loader, return_predictions=False)
        assert len(read_predictions(path)) == expected
    with pytest.raises(FileExistsError, match=r"answers\.jsonl holds answers of an earlier run; move it away"):
        make_trainer(tmp_path, callbacks=[PredictionWriter(str(path))]).predict(module, loader)
    assert len(read_predictions(path)) == 12
