"""What every reader promises: bridges and stores alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.flops.counting import count_flops, meta_copy
from components.interfaces import SegmentInput, VisualReader, VisualTokens
from components.sharding import SkipsUnusedCompute
from tests.components.readers.reader_runs import (
    LENGTHS,
    NUM_PATCHES,
    in_order,
    make_segments,
    questions_about,
    read,
    read_state,
    real,
    shortened,
    walk,
    with_kept,
)
from tests.components.readers.reader_table import READERS, Entry

MakeReader = Callable[[], VisualReader[Any]]
ENTRIES = READERS.items()
every_reader = pytest.mark.parametrize("make", [entry.make for _, entry in ENTRIES], ids=READERS)
every_entry = pytest.mark.parametrize("entry", READERS.values(), ids=READERS)
READS_KEPT = {name: entry.make for name, entry in ENTRIES if entry.make().reads_kept_tokens}
every_reader_of_kept_tokens = pytest.mark.parametrize("make", READS_KEPT.values(), ids=READS_KEPT)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def assert_same_places(one: VisualTokens, first: int, other: VisualTokens, second: int) -> None:
    assert (one.places is None) == (other.places is None)
    if one.places is None or other.places is None:
        return
    for ours, theirs in zip(one.places, other.places, strict=True):
        assert ours[first][one.mask[first]].tolist() == theirs[second][other.mask[second]].tolist()


def drawn_mask(segment: SegmentInput, seed: int) -> Tensor:
    """About half of the real tokens, at least one of every real frame."""
    drawn = torch.rand(segment.tokens.shape[:2], generator=torch.Generator().manual_seed(seed))
    cells = drawn.unflatten(1, (-1, segment.num_cells))
    some = (cells > 0.5) | (cells == cells.amax(dim=2, keepdim=True))
    return some.flatten(1) & segment.token_mask


@every_reader
@pytest.mark.parametrize("padding", [{"segments": 5}, {"frames": 6}, {"segments": 4, "frames": 4}])
def test_padding_by_masked_frames_and_empty_segments_changes_nothing(make: MakeReader, padding: dict[str, int]) -> None:
    reader = make()
    plain, padded = read(reader, make_segments(LENGTHS)), read(reader, make_segments(LENGTHS, **padding))
    for video in range(len(LENGTHS)):
        assert_same(real(padded, video), real(plain, video))
        assert_same_places(padded, video, plain, video)


@every_reader
def test_batch_of_videos_equals_the_videos_alone(make: MakeReader) -> None:
    reader = make()
    together = read(reader, make_segments(LENGTHS))
    for video, lengths in enumerate(LENGTHS):
        alone = read(reader, make_segments([lengths], seeds=[video]), [video])
        assert_same(real(together, video), real(alone, 0))
        assert_same_places(together, video, alone, 0)


@every_reader
def test_streaming_segment_by_segment_equals_offline_at_every_moment(make: MakeReader) -> None:
    reader = make()
    offline = make_segments(LENGTHS)
    for video, lengths in enumerate(LENGTHS):
        state = None
        for step, length in enumerate(lengths):
            # A stream holds no padding: the segment is as long as it is.
            segment = shortened(offline[step].of_videos(slice(video, video + 1)), length)
            state = reader.prune(reader(segment, state))
            now, so_far = read_state(reader, state, [video]), read(reader, offline[: step + 1])
            assert_same(real(now, 0), real(so_far, video))
            assert_same_places(now, 0, so_far, video)


@every_reader
def test_pruning_does_not_change_what_is_read(make: MakeReader) -> None:
    reader = make()
    plain = pruned = None
    for segment in make_segments(LENGTHS, segments=4):
        plain, pruned = reader(segment, plain), reader.prune(reader(segment, pruned))
        videos = list(range(len(LENGTHS)))
        shown, expected = (read_state(reader, state, videos) for state in (pruned, plain))
        for video in videos:
            assert_same(real(shown, video), real(expected, video))


@every_reader
def test_reader_keeps_nothing_between_calls(make: MakeReader) -> None:
    reader = make()
    first = read(reader, make_segments(LENGTHS))
    read(reader, make_segments([[4, 4]], seeds=[7]))
    again = read(reader, make_segments(LENGTHS))
    torch.testing.assert_close(again.tokens[again.mask], first.tokens[first.mask], rtol=0, atol=0)


@every_reader
@pytest.mark.parametrize("lengths", [LENGTHS, [[2, 1, 2]] * 2], ids=["ragged", "full"])
def test_strategies_that_forbid_shortcuts_change_nothing(make: MakeReader, lengths: list[list[int]]) -> None:
    shown, gradients = [], []
    for may_skip in (True, False):
        reader, segments = make(), make_segments(lengths)
        for module in reader.modules():
            if isinstance(module, SkipsUnusedCompute):
                module.may_skip_unused_compute = may_skip
        for segment in segments:
            segment.tokens.requires_grad_()
        visual = read(reader, segments)
        visual.tokens[visual.mask].pow(3).sum().backward()
        shown.append([real(visual, video) for video in range(len(lengths))])
        given = [segment.tokens.grad for segment in segments]
        gradients.append(
            [0.0 * each.tokens if grad is None else grad for each, grad in zip(segments, given, strict=True)]
        )
    for one, other in zip(*shown, strict=True):
        assert_same(one, other)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@every_reader
def test_state_consists_of_tensors_with_a_row_for_every_video(make: MakeReader) -> None:
    leaves = tree_leaves(walk(make(), make_segments(LENGTHS)))
    assert all(isinstance(leaf, Tensor) and len(leaf) == len(LENGTHS) for leaf in leaves)


@every_reader
@pytest.mark.parametrize("lengths", [[[1]], [[2]], LENGTHS], ids=["dummy", "one_segment", "several"])
def test_every_parameter_gets_a_gradient(make: MakeReader, lengths: list[list[int]]) -> None:
    reader = make()
    state = walk(reader, make_segments(lengths))
    penalty = reader.penalty(state)
    shown = read_state(reader, state, list(range(len(lengths)))).tokens
    (shown.square().sum() + (0.0 if penalty is None else penalty.sum())).backward()
    missing = [name for name, parameter in reader.named_parameters() if parameter.grad is None]
    assert missing == []
    assert all(bool(parameter.grad.isfinite().all()) for parameter in reader.parameters() if parameter.grad is not None)


@every_entry
def test_every_real_frame_and_no_masked_one_matters(entry: Entry) -> None:
    segments = make_segments(LENGTHS, segments=4)
    for segment in segments:
        segment.tokens.requires_grad_()
    visual = read(entry.make(), segments)
    visual.tokens[visual.mask].square().sum().backward()  # type: ignore[no-untyped-call]
    for step, segment in enumerate(segments):
        given = segment.tokens.grad
        reached = torch.zeros_like(segment.frame_mask)
        if given is not None:
            reached = given.unflatten(1, (-1, NUM_PATCHES)).abs().sum(dim=(2, 3)) > 0  # [V, L]
        assert not bool((reached & ~segment.frame_mask).any()), f"a masked frame matters in segment {step}"
        if entry.shows_every_frame:
            assert torch.equal(reached, segment.frame_mask), f"a real frame does not matter in segment {step}"


@every_reader_of_kept_tokens
def test_masking_tokens_equals_removing_them(make: MakeReader) -> None:
    reader = make()
    full = make_segments(LENGTHS)
    masked = [with_kept(segment, drawn_mask(segment, seed)) for seed, segment in enumerate(full)]
    together = read(reader, masked)
    assert not all(bool(segment.token_mask.all()) for segment in masked)
    for video, lengths in enumerate(LENGTHS):
        alone = [segment.of_videos(slice(video, video + 1)) for segment in masked[: len(lengths)]]
        removed = [in_order(segment, segment.token_mask[0].nonzero()[:, 0]) for segment in alone]
        shown = read(reader, removed, [video])
        assert_same(real(shown, 0), real(together, video))
        assert_same_places(shown, 0, together, video)


@every_reader_of_kept_tokens
def test_order_of_kept_tokens_changes_at_most_the_order_of_visual_tokens(make: MakeReader) -> None:
    reader = make()
    plain = [with_kept(segment, drawn_mask(segment, seed)) for seed, segment in enumerate(make_segments(LENGTHS))]
    other = [in_order(segment, torch.randperm(segment.tokens.shape[1])) for segment in plain]
    shown, expected = read(reader, other), read(reader, plain)
    for video in range(len(LENGTHS)):
        ours, theirs = real(shown, video), real(expected, video)
        assert_same(ours[ours[:, 0].argsort()], theirs[theirs[:, 0].argsort()])


@pytest.mark.parametrize("name", sorted(READERS.keys() - READS_KEPT.keys()))
def test_reader_of_full_grids_refuses_kept_tokens(name: str) -> None:
    [segment] = make_segments([[2]])
    with pytest.raises(ValueError, match="reads full grids of patches, but a reducer has left tokens out"):
        READERS[name].make()(with_kept(segment, segment.token_mask), None)


@every_entry
def test_tokens_of_a_segment_are_those_of_videos_that_have_it(entry: Entry) -> None:
    reader, state = entry.make(), None
    for step, segment in enumerate(make_segments(LENGTHS, segments=4)):
        state = reader(segment, state)
        if not entry.gives_written:
            with pytest.raises(NotImplementedError, match="gives no tokens of single segments"):
                reader.written(segment, state)
            continue
        visual = reader.written(segment, state)
        has_segment = [step < len(lengths) for lengths in LENGTHS]
        if entry.shows_every_frame:
            assert visual.mask.any(dim=1).tolist() == has_segment
        assert not visual.mask[~torch.tensor(has_segment)].any()
        assert visual.tokens.shape == (*visual.mask.shape, entry.out_dim)
        if step == 0 and entry.shows_every_frame:  # all that can be read was written by the only segment
            shown = read_state(reader, state, list(range(len(LENGTHS))))
            for video in range(len(LENGTHS)):
                assert_same(real(visual, video), real(shown, video))


@every_reader
def test_diagnostics_have_a_row_for_every_video_and_call_no_module(make: MakeReader) -> None:
    reader = make()
    state = walk(reader, make_segments(LENGTHS))
    for module in reader.modules():
        module.register_forward_pre_hook(lambda module, _: pytest.fail(f"{type(module).__name__} was called"))
    shown = reader.diagnostics(state)
    assert shown.segment_attention is None
    assert {len(each) for each in shown if each is not None} <= {len(LENGTHS)}


@every_reader
def test_places_name_the_frame_the_cell_and_the_time_of_real_tokens_alone(make: MakeReader) -> None:
    visual = read(make(), make_segments(LENGTHS))
    if visual.places is None:
        return
    for field in visual.places:
        assert torch.equal(field >= 0, visual.mask)


@every_reader
def test_operations_of_a_reading_are_counted_without_values(make: MakeReader) -> None:
    reader = meta_copy(make())
    segments = make_segments([[2], [2]]) * 3  # their masks and times have values
    on_meta = [segment._replace(tokens=segment.tokens.to("meta").requires_grad_()) for segment in segments]
    questions = questions_about([0, 1])
    words = questions._replace(embeddings=questions.embeddings.to("meta")) if reader.reads_questions else None
    flops, visual = count_flops(lambda: reader.read(walk(reader, on_meta), words))
    assert flops > 0
    assert visual.tokens.is_meta
    assert visual.tokens.shape[:2] == visual.mask.shape
