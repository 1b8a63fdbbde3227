from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from datamodules.failures import FailurePolicy
from datamodules.loader import Loading
from datamodules.start_sample import StartReader, StartSample
from tests.fixtures_data import make_clip, make_record, write_shard

LONG = "what colour is the circle ? " * 6


def read(
    path: Path, tokenizer: Any, *, skip: bool = False, max_length: int | None = None, is_answered: bool = False
) -> StartSample:
    listed = str(path.parent / "skipped.jsonl")
    failures = FailurePolicy("skip", listed) if skip else FailurePolicy()
    reader = StartReader(tokenizer, 28, Loading(max_length=max_length, failures=failures), 0)
    return reader.read([(str(path), is_answered)])


def write(path: Path, questions: list[str]) -> Path:
    clip = make_clip(2)
    samples = [(f"v{number}", make_record([(text, "red")]), clip, "mp4") for number, text in enumerate(questions)]
    return write_shard(path, samples)


def test_the_longest_conversations_of_a_shard_are_among_the_sample(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.tar", ["what ?"] * 40 + [LONG] + ["what ?"] * 40)
    sample = read(path, tokenizer, is_answered=True)
    assert sample.problems == []
    assert 9 <= len(sample.texts) <= 16
    longest = max(sample.texts, key=lambda text: len(text.input_ids))
    assert "key 'v40'" in longest.where
    assert all(text.is_answered for text in sample.texts)
    assert [(media.dtype, media.shape) for media in sample.media] == [(torch.uint8, (3, 28, 28))]


def test_cached_features_show_their_form(tmp_path: Path, tokenizer: Any) -> None:
    features = save({"features": torch.zeros(2, 5, 16), "frame_ms": torch.arange(2)})
    path = write_shard(tmp_path / "f.tar", [("v", make_record(), features, "safetensors")])
    assert [(media.dtype, media.shape) for media in read(path, tokenizer).media] == [(torch.float32, (5, 16))]


def test_broken_features_do_not_hide_the_form_of_others(tmp_path: Path, tokenizer: Any) -> None:
    features = save({"features": torch.zeros(2, 5, 16), "frame_ms": torch.arange(2)})
    samples = [("a", make_record(), b"broken", "safetensors"), ("b", make_record(), features, "safetensors")]
    sample = read(write_shard(tmp_path / "f.tar", samples), tokenizer, skip=True)
    assert [media.shape for media in sample.media] == [(5, 16)]


def test_of_very_many_conversations_the_longest_are_read(tmp_path: Path, tokenizer: Any) -> None:
    questions = [("what ?", "red")] * 50 + [(LONG, "red")]
    path = write_shard(tmp_path / "a.tar", [("t", make_record(questions, media=False), None, None)])
    texts = read(path, tokenizer).texts
    assert len(texts) == 16
    assert len(texts[0].input_ids) > len(texts[1].input_ids)


def test_one_problem_a_source_is_told_with_how_many_more_there_are(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.tar", ["what ?"] * 5 + [LONG] * 3)
    (problem,) = read(path, tokenizer, max_length=20).problems
    assert "max_length is 20" in problem
    assert "2 more of the 8 that were tried" in problem


@pytest.mark.parametrize("skipped", ["training", "evaluation"])
def test_where_wrong_samples_are_left_out_only_a_source_without_others_is_a_problem(
    tmp_path: Path, tokenizer: Any, skipped: str
) -> None:
    where: Any = {"skip": True} if skipped == "training" else {"is_answered": True}
    assert read(write(tmp_path / "a.tar", ["what ?", LONG]), tokenizer, max_length=20, **where).problems == []
    (problem,) = read(write(tmp_path / "b.tar", [LONG, LONG]), tokenizer, max_length=20, **where).problems
    assert "max_length is 20" in problem


def test_what_is_read_follows_from_the_seed_alone(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "a.tar", ["what ?"] * 40)
    first, second = read(path, tokenizer), read(path, tokenizer)
    assert [text.where for text in first.texts] == [text.where for text in second.texts]


@pytest.mark.parametrize("remote", ["https://host.invalid/a.tar", "https://host.invalid/a-{0..3}.tar"])
def test_remote_shards_are_not_fetched(tokenizer: Any, remote: str) -> None:
    assert StartReader(tokenizer, 28, Loading(), 0).read([(remote, False)]) == StartSample([], [], [])
