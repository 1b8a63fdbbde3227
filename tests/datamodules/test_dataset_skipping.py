"""Samples that cannot be read stop a run, or are left out and listed."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.batch import IGNORED_LABEL, SKIPPED_KEY, collate
from datamodules.dataset import ConversationDataset
from datamodules.errors import BrokenMediaError, SampleError, StuckDecoderError, TooManySkippedError
from datamodules.failures import FailurePolicy
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.order.training_order import Draw
from tests.datamodules.test_dataset import dataset
from tests.fixtures_data import make_clip, make_record, write_members, write_shard


def with_broken(path: Path) -> Path:
    good = json.dumps(make_record()).encode()
    answerless = json.dumps(make_record() | {"conversations": []}).encode()
    return write_members(
        path,
        [
            ("a.mp4", make_clip(2)),
            ("a.json", good),
            ("b.mp4", make_clip(2)[:400]),
            ("b.json", good),
            ("c.mp4", make_clip(2)),
            ("c.json", answerless),
            ("d.mp4", make_clip(3)),
            ("d.json", good),
        ],
    )


def test_a_wrong_sample_stops_the_run_before_it_starts(tmp_path: Path, tokenizer: Any) -> None:
    path = with_broken(tmp_path / "x.tar")
    with pytest.raises(
        SampleError, match=r"1 of 4 samples are wrong. The first: .*x\.tar, key 'c': 'conversations' is"
    ):
        dataset(path, tokenizer)


def test_a_broken_video_stops_the_run(tmp_path: Path, tokenizer: Any) -> None:
    path = write_members(
        tmp_path / "x.tar", [("b.mp4", make_clip(2)[:400]), ("b.json", json.dumps(make_record()).encode())]
    )
    with pytest.raises(BrokenMediaError, match=r"x\.tar, key 'b': the video cannot be decoded"):
        dataset(path, tokenizer).__getitems__([Draw(0, 0)])


def test_skipping_makes_the_batch_smaller_and_lists_what_is_missing(tmp_path: Path, tokenizer: Any) -> None:
    listed = tmp_path / "lists" / "skipped.jsonl"
    failures = FailurePolicy("skip", str(listed))
    data = dataset(with_broken(tmp_path / "x.tar"), tokenizer, failures=failures)
    batch = collate(data.__getitems__([Draw(index, 100 + index) for index in range(4)]))
    assert [question.key for question in batch.questions] == ["a", "d"]
    assert batch.frame_counts.tolist() == [2, 3]
    assert batch.left_out == ("media", "sample")
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(line["position"], line["key"], line["kind"]) for line in lines] == [
        (101, "b", "media"),
        (102, "c", "sample"),
    ]
    assert {line["shard"] for line in lines} == {str(tmp_path / "x.tar")}
    assert "cannot be decoded" in lines[0]["reason"]
    assert data.skipped is not None
    assert data.skipped.counts() == {"media": 1, "sample": 1}
    data.__getitems__([Draw(index, 200 + index) for index in range(4)])
    assert len(listed.read_text().splitlines()) == 2


def test_a_sample_in_quarantine_is_left_out_untried(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = {"a"}
    tried: list[str] = []

    def decode(request: MediaRequest, settings: Decoding) -> DecodedFrames:
        tried.append(request.where[-3:-1].strip("'"))
        if tried[-1] in stuck:
            raise StuckDecoderError(f"{request.where}: did not finish")
        return decode_media(request, settings)

    monkeypatch.setattr("datamodules.media.media_reader.decode_media", decode)
    path = write_shard(tmp_path / "x.tar", [(key, make_record(), make_clip(2), "mp4") for key in "ab"])
    failures = FailurePolicy("skip", str(tmp_path / "skipped.jsonl"))
    run, resumed = (dataset(path, tokenizer, failures=failures) for _ in range(2))

    def keys(data: ConversationDataset, position: int) -> list[str]:
        tried.clear()
        batch = collate(data.__getitems__([Draw(0, position), Draw(1, position + 1)]))
        return [question.key for question in batch.questions]

    assert (keys(run, 10), tried) == (["b"], ["a", "b"])
    stuck.clear()  # whatever it was, it is over
    for data in (run, resumed):
        assert (keys(data, 20), tried) == (["b"], ["b"])
        assert (keys(data, 10), tried) == (["b"], ["b"])
        assert (keys(data, 8), tried) == (["a", "b"], ["a", "b"])  # before it hung it was trained on
    assert run.skipped is not None
    assert run.skipped.counts() == {"timeout": 1}


def test_a_batch_that_is_lost_whole_becomes_one_of_which_nothing_is_scored(tmp_path: Path, tokenizer: Any) -> None:
    failures = FailurePolicy("skip", str(tmp_path / "skipped.jsonl"))
    data = dataset(with_broken(tmp_path / "x.tar"), tokenizer, failures=failures)
    batch = collate(data.__getitems__([Draw(1, 0), Draw(2, 1)]))
    assert bool((batch.labels == IGNORED_LABEL).all())
    assert [question.key for question in batch.questions] == [SKIPPED_KEY]
    assert len(batch.frame_counts) == 0
    assert data.skipped is not None
    assert len(data.skipped) == 2


def test_a_data_set_of_which_too_much_is_left_out_ends_the_run(tmp_path: Path, tokenizer: Any) -> None:
    failures = FailurePolicy("skip", str(tmp_path / "skipped.jsonl"), max_skipped_in_a_row=3)
    data = dataset(with_broken(tmp_path / "x.tar"), tokenizer, failures=failures)
    for position in range(5):  # samples 1 and 2 are wrong, 0 is not
        data.__getitems__([Draw(1, position), Draw(2, position), Draw(0, position)])
    with pytest.raises(TooManySkippedError, match=r"4 samples in a row.*key 'c'.*skipped\.jsonl"):
        data.__getitems__([Draw(1, 0), Draw(2, 1), Draw(1, 2), Draw(2, 3)])
