"""Which samples an evaluation that goes on still asks, and what it says of the others."""

from pathlib import Path

import pytest

from components.checkpoints.atomic_folder import write_atomically
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from lightning_modules.evaluation.predictions import Prediction, to_json_lines
from lightning_modules.evaluation.resuming import begin_evaluation, check_turns, skipped_questions, split_answered
from tests.fixtures_data import make_record, write_shard

QUESTIONS = [("which colour ?", "red"), ("which shape ?", "circle")]
LINE = Prediction("same", "q0", "made", "colour", "0", "which ?", "red", "red", True)


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    """Two shards with a sample of the same key and two questions each."""
    shards = [
        write_shard(tmp_path / f"{number}.tar", [("same", make_record(QUESTIONS, media=False), None, None)])
        for number in range(2)
    ]
    return ShardReader([load_index(shard) for shard in shards])


def test_samples_of_one_key_in_two_shards_are_told_apart(reader: ShardReader) -> None:
    half, one = [LINE], [LINE, LINE._replace(id="q1")]
    assert split_answered(reader, half) == ([], [0, 1])
    assert split_answered(reader, one) == (one, [1])
    assert split_answered(reader, one + half) == (one, [1])
    assert split_answered(reader, one + one) == (one + one, [])


def test_questions_of_skipped_samples_are_counted_and_not_asked_again(reader: ShardReader) -> None:
    skipped = {(reader.shard(1).url, "same"): {"shard": reader.shard(1).url, "key": "same", "position": 3}}
    assert split_answered(reader, [], skipped) == ([], [0])
    counted = skipped_questions(reader, skipped)
    assert counted.samples == [{"shard": reader.shard(1).url, "key": "same"}]
    assert (counted.num_skipped, counted.num_conversations) == (2, 4)


def test_conversations_of_several_turns_are_complete_with_their_last_turn(reader: ShardReader) -> None:
    of_three = [LINE._replace(turn=turn, num_turns=3) for turn in (1, 2, 3)]
    other = LINE._replace(id="q1", num_turns=1)
    assert split_answered(reader, of_three) == ([], [0, 1])
    assert split_answered(reader, [*of_three, other]) == ([*of_three, other], [1])
    assert split_answered(reader, [other, *of_three[:2]]) == ([], [0, 1])
    twice = [*of_three, other, other, *of_three]
    assert split_answered(reader, twice) == (twice, [])
    assert split_answered(reader, twice[:-1]) == ([*of_three, other], [1])


def test_answers_of_earlier_versions_are_continued_only_where_conversations_have_one_turn(reader: ShardReader) -> None:
    lines = [LINE, LINE._replace(id="q1")]
    completed = check_turns(reader, lines, lambda _: [1, 1], Path("out"))
    assert completed == [line._replace(num_turns=1) for line in lines]
    with pytest.raises(ValueError, match=r"out holds answers of an earlier version.*'same' has a conversation of 3"):
        check_turns(reader, lines, lambda index: [1, 3] if index else [1, 1], Path("out"))
    assert check_turns(reader, completed, lambda _: pytest.fail("not needed"), Path("out")) == completed


def test_a_folder_continues_its_own_evaluation_only(tmp_path: Path) -> None:
    about = {"averaged": False, "shards": ["a"]}
    assert begin_evaluation(tmp_path / "out", about, restart=False) == []
    write_atomically(tmp_path / "out" / "predictions.jsonl", to_json_lines([LINE]))
    assert begin_evaluation(tmp_path / "out", about, restart=False) == [LINE]
    with pytest.raises(ValueError, match="another evaluation: shards differ"):
        begin_evaluation(tmp_path / "out", {**about, "shards": ["b"]}, restart=False)
    assert begin_evaluation(tmp_path / "out", {**about, "shards": ["b"]}, restart=True) == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json"]
