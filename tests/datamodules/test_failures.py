"""The list of what was left out: once a sample, shared by processes, a quarantine for decoders that hang or crash."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.batch import collate, empty_text_sample
from datamodules.errors import (
    BrokenMediaError,
    CrashedDecoderError,
    OversizedMediaError,
    QuarantinedError,
    SampleError,
    StuckDecoderError,
    TooManySkippedError,
)
from datamodules.failures import FailurePolicy, SkipBounds, SkippedSamples
from datamodules.read_batches import ReadBatches


def test_every_sample_is_listed_once_and_counted_by_kind(tmp_path: Path) -> None:
    mine, theirs = SkippedSamples(tmp_path / "lists" / "x.jsonl"), SkippedSamples(tmp_path / "lists" / "x.jsonl")
    assert mine.counts() == {}
    errors = [
        ("a", SampleError("no answer")),
        ("b", BrokenMediaError("cut off")),
        ("c", BrokenMediaError("cut off")),
        ("d", OversizedMediaError("8K")),
        ("e", StuckDecoderError("hangs")),
        ("f", CrashedDecoderError("SIGSEGV")),
    ]
    for number, samples in enumerate((mine, theirs, mine)):
        for position, (key, error) in enumerate(errors):
            samples.add("x.tar", key, 10 * number + position, error)
    assert mine.counts() == theirs.counts() == {"sample": 1, "media": 2, "size": 1, "timeout": 1, "crash": 1}
    lines = [json.loads(line) for line in mine.path.read_text().splitlines()]
    assert [line["key"] for line in lines] == list("abcdef")
    assert lines[4] == {"shard": "x.tar", "key": "e", "kind": "timeout", "position": 4, "reason": "hangs"}
    assert len(theirs) == 6


@pytest.mark.parametrize("error", [StuckDecoderError("hangs"), CrashedDecoderError("SIGSEGV")])
def test_quarantine_starts_where_the_decoder_failed_first(tmp_path: Path, error: SampleError) -> None:
    samples = SkippedSamples(tmp_path / "x.jsonl")
    samples.add("x.tar", "a", 100, error)
    samples.add("x.tar", "a", 70, error)
    later = SkippedSamples(tmp_path / "x.jsonl")
    later.check("x.tar", "a", 69)
    later.check("y.tar", "a", 100)
    later.check("x.tar", "b", 100)
    for position in (70, 99, 100, 1000):
        with pytest.raises(QuarantinedError, match=r"shard x.tar, key 'a': .* remove its line from .*x\.jsonl"):
            later.check("x.tar", "a", position)
    assert later.counts() == {error.kind: 1}


@pytest.mark.parametrize("error", [SampleError("no answer"), BrokenMediaError("cut off"), OversizedMediaError("8K")])
def test_what_is_wrong_in_itself_is_judged_anew_each_time(tmp_path: Path, error: SampleError) -> None:
    samples = SkippedSamples(tmp_path / "x.jsonl")
    samples.add("x.tar", "a", 100, error)
    samples.check("x.tar", "a", 200)


def test_a_sample_in_quarantine_is_not_listed_for_it(tmp_path: Path) -> None:
    samples = SkippedSamples(tmp_path / "x.jsonl")
    samples.add("x.tar", "a", 1, QuarantinedError("hung before"))
    assert not samples.path.exists()


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    samples = SkippedSamples(tmp_path / "x.jsonl")
    samples.add("x.tar", "a", 1, BrokenMediaError("cut off"))
    whole = samples.path.read_bytes()
    reader = SkippedSamples(tmp_path / "x.jsonl")
    samples.path.write_bytes(whole + whole.replace(b'"a"', b'"b"')[:20])
    assert len(reader) == 1
    samples.path.write_bytes(whole + whole.replace(b'"a"', b'"b"'))
    assert len(reader) == 2


def test_a_file_that_is_no_such_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"x\.jsonl is no list of skipped samples"):
        SkippedSamples(tmp_path / "x.jsonl").counts()


def test_raising_needs_no_list_and_skipping_does() -> None:
    assert FailurePolicy("raise", "x.jsonl").skipped_samples() is None
    assert FailurePolicy("skip", "x.jsonl").skipped_samples() is not None
    with pytest.raises(ValueError, match="needs skipped_file"):
        FailurePolicy("skip")


def skip(row: int = 50, share: float = 0.1) -> SkipBounds:
    return SkipBounds(FailurePolicy("skip", "lists/x.jsonl", max_skipped_in_a_row=row, max_skipped_share=share))


def test_samples_left_out_in_a_row_end_the_run_with_their_kinds_and_the_list() -> None:
    bounds = skip(row=3, share=1.0)
    for error in [SampleError("a"), BrokenMediaError("b"), BrokenMediaError("c"), None] * 40:
        bounds.add(error)
    for error in [SampleError("a"), BrokenMediaError("b"), BrokenMediaError("c")]:
        bounds.add(error)
    message = (
        r"4 samples in a row were left out \(.* 'media', .* 'sample'\), more than max_skipped_in_a_row allows \(3\). "
        r"The last: cut off. All are listed in lists/x.jsonl. Correct the data"
    )
    with pytest.raises(TooManySkippedError, match=message):
        bounds.add(BrokenMediaError("cut off"))


@pytest.mark.parametrize("period", [12, 20])
def test_a_share_that_is_allowed_never_ends_the_run(period: int) -> None:
    bounds = skip()
    for number in range(5000):
        bounds.add(SampleError("x") if number % period == 0 else None)


@pytest.mark.parametrize("good", [0, 30000])
@pytest.mark.parametrize("period", [2, 5, 9])
def test_a_share_above_the_bound_ends_the_run_soon_at_any_time(period: int, good: int) -> None:
    bounds = skip()
    for _ in range(good):
        bounds.add(None)
    for number in range(51 * period - period):
        bounds.add(SampleError("x") if number % period == 0 else None)
    with pytest.raises(TooManySkippedError, match=r"51 of the last \d+ samples were left out \(51 of kind 'sample'\)"):
        bounds.add(SampleError("x"))


@pytest.mark.parametrize("bound", [{"max_skipped_in_a_row": 0}, {"max_skipped_share": 0.0}, {"max_skipped_share": 1.5}])
def test_bounds_that_bound_nothing_are_refused(bound: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="max_skipped_in_a_row must be at least 1, and max_skipped_share above 0"):
        FailurePolicy("skip", "x.jsonl", **bound)  # type: ignore[arg-type]


def test_a_stage_of_which_nothing_was_read_is_refused_where_all_ranks_agree() -> None:
    read = ReadBatches()
    lost = collate([empty_text_sample("media")])
    found = lost._replace(questions=(lost.questions[0]._replace(key="a"),), left_out=())
    for stage, batch in (("train", found), ("train", lost), ("validate", lost), ("validate", lost)):
        read.add(stage, batch)
    asked: list[bool] = []
    read.finish(Ranks(TrainerFn.FITTING, lambda empty: bool(asked.append(empty))), FailurePolicy())
    assert asked == [False, True]
    with pytest.raises(TooManySkippedError, match="stage 'validate': every sample of all 2 batches was left out"):
        read.finish(Ranks(TrainerFn.FITTING, lambda empty: empty), FailurePolicy())


class Ranks:
    """What a trainer and its strategy tell of a run; with it stand the numbers of another rank."""

    def __init__(self, fn: TrainerFn, agree: Callable[[bool], bool] = lambda own: own, others: float = 0) -> None:
        self.state = SimpleNamespace(fn=fn)
        self.log_dir = "logs"
        self.strategy = SimpleNamespace(
            root_device="cpu",
            reduce_boolean_decision=lambda own, all: agree(own),
            reduce=lambda numbers, reduce_op: numbers * (1 + others),
        )


@pytest.mark.parametrize(("share", "is_refused"), [(0.1, True), (0.33, True), (0.34, False), (1.0, False)])
def test_an_evaluation_that_left_out_more_than_its_share_over_all_ranks_is_refused(
    share: float, is_refused: bool
) -> None:
    read = ReadBatches()
    lost = collate([empty_text_sample("media")])
    asked = tuple(lost.questions[0]._replace(key=key) for key in "aabb")
    read.add("test", lost._replace(questions=asked))
    trainer = Ranks(TrainerFn.TESTING, others=1)
    warned = pytest.warns(UserWarning, match=r"2 of 6 samples were left out \(2 of kind 'media'\).*skipped_test\.jsonl")
    message = r"2 of 6 samples were left out .*max_skipped_share allows .* Correct the data, or raise data\.loading"
    refused = pytest.raises(TooManySkippedError, match=message) if is_refused else nullcontext()
    with warned, refused:
        read.finish(trainer, FailurePolicy(max_skipped_share=share))


def test_one_sample_of_few_is_never_too_much() -> None:
    read = ReadBatches()
    lost = collate([empty_text_sample("media")])
    read.add("test", lost._replace(questions=(lost.questions[0]._replace(key="a"),)))
    with pytest.warns(UserWarning, match="1 of 2 samples were left out"):
        read.finish(Ranks(TrainerFn.TESTING), FailurePolicy(max_skipped_share=0.01))
