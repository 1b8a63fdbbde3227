"""How far gradients of the grid memory go, and what they keep in memory."""

import pytest
import torch
from torch import Tensor

from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.interfaces import SegmentInput
from tests.components.readers.reader_runs import LENGTHS, assert_same, make_segments, read, walk
from tests.components.readers.reader_table import grid_memory, grid_memory_with

OTHER_LENGTHS = [[1] * 7, [2, 1], [1] * 5]


def stored_bytes(reader: GridMemory, segments: list[SegmentInput]) -> tuple[int, dict[str, Tensor]]:
    """Bytes that autograd stores between forward and backward, and the gradients of weights and patches."""
    patches = [each.tokens.clone().requires_grad_() for each in segments]
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        shown = read(reader, [each._replace(tokens=own) for each, own in zip(segments, patches, strict=True)])
        loss = shown.tokens[shown.mask].pow(3).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in reader.named_parameters() if each.grad is not None}
    of_patches = {str(s): torch.zeros_like(each) if each.grad is None else each.grad for s, each in enumerate(patches)}
    return sum(sizes.values()), gradients | of_patches


@pytest.mark.parametrize("lengths", [[[4] * 6], OTHER_LENGTHS], ids=["one", "several"])
def test_recomputed_segments_give_the_same_gradients_with_less_stored(lengths: list[list[int]]) -> None:
    segments = make_segments(lengths)
    most, expected = stored_bytes(grid_memory(depth=3), segments)
    least, found = stored_bytes(grid_memory(depth=3, options=GridMemoryOptions(recompute=True)), segments)
    torch.testing.assert_close(found, expected)
    assert least < most / 2


def reached(lengths: list[list[int]], every: int | None, seeds: list[int] | None = None) -> list[list[bool]]:
    """Which segments of which videos get a gradient."""
    _, gradients = stored_bytes(grid_memory_with(cut_gradients_every=every), make_segments(lengths, seeds=seeds))
    most = max(map(len, lengths))
    return [[bool(gradients[str(s)][v].any()) for s in range(most)][: len(video)] for v, video in enumerate(lengths)]


def test_gradients_are_cut_every_few_segments() -> None:
    assert reached([[1] * 7], None) == [[True] * 7]
    assert reached([[1] * 7], 3) == [[False] * 6 + [True]]
    assert reached([[1] * 6], 3) == [[False] * 3 + [True] * 3]
    assert reached([[1] * 3], 3) == [[True] * 3]
    assert reached([[1] * 2], 1) == [[False, True]]


def test_gradients_of_a_video_do_not_depend_on_the_others_of_its_batch() -> None:
    lengths = [[1] * 7, [1] * 3, [1] * 5]
    assert reached(lengths, 2) == [reached([video], 2, [seed])[0] for seed, video in enumerate(lengths)]
    batch = make_segments(lengths)
    _, together = stored_bytes(grid_memory_with(cut_gradients_every=2), batch)
    for video, own in enumerate(lengths):
        _, alone = stored_bytes(grid_memory_with(cut_gradients_every=2), make_segments([own], seeds=[video]))
        for step in range(len(own)):
            assert_same(together[str(step)][video], alone[str(step)][0])


def test_cutting_changes_no_value_and_bounds_the_graph() -> None:
    def num_nodes(num_segments: int, every: int | None) -> int:
        state = walk(grid_memory_with(cut_gradients_every=every), make_segments([[1] * num_segments]))
        waiting, seen = [each.grad_fn for each in (state.newest, *state.memories)], set()
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        return len(seen)

    assert num_nodes(12, 3) == num_nodes(6, 3) < num_nodes(6, None) < num_nodes(12, None)
    segments = make_segments(LENGTHS)
    assert torch.equal(
        read(grid_memory_with(cut_gradients_every=1), segments).tokens, read(grid_memory(), segments).tokens
    )
