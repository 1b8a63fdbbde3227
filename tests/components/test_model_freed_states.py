"""Models free the states, and the graphs, of segments after which nothing is read."""

import weakref
from functools import partial

import torch
from torch import Tensor

from components.bridges.grid_memory import GridMemory, GridMemoryOptions
from components.losses import EverySegmentLoss
from components.model import VideoLanguageModel
from datamodules.batch import collate
from tests.fixtures_models import NUM_PATCHES, PartFolders, make_frames, make_model, make_sample

QUESTION = [[("which ?", "red")]]


class _Stored:
    """A tensor that autograd stores."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # its graph would refer to this object and never be freed


def grid_memory_model(folders: PartFolders, every: int | None) -> VideoLanguageModel:
    options = GridMemoryOptions(cut_gradients_every=every)
    memory = partial(GridMemory, num_cells=NUM_PATCHES, num_memory=2, num_heads=2, cache_limit=2, options=options)
    return make_model(folders, bridge=memory)


def bytes_before_the_answer(folders: PartFolders, every: int | None, num_segments: int) -> int:
    """Bytes that autograd still stores when the language model begins with a video of so many segments."""
    model = grid_memory_model(folders, every)
    model.encoder.requires_grad_(False)
    stored: list[weakref.ref[_Stored]] = []
    found: list[int] = []

    def pack(tensor: Tensor) -> _Stored:
        packed = _Stored(tensor)
        stored.append(weakref.ref(packed))
        return packed

    def count(*_: object) -> None:
        tensors = [each.tensor.untyped_storage() for each in (reference() for reference in stored) if each is not None]
        found.append(sum({each.data_ptr(): each.nbytes() for each in tensors}.values()))

    model.language_model.register_forward_pre_hook(count)
    batch = collate([make_sample(folders, "a", make_frames(2 * num_segments), QUESTION)])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        model(batch)
    return found[-1]


def test_a_model_that_cuts_gradients_stores_no_more_for_a_longer_video(folders: PartFolders) -> None:
    assert bytes_before_the_answer(folders, 2, 6) == bytes_before_the_answer(folders, 2, 12)
    assert bytes_before_the_answer(folders, 2, 6) < bytes_before_the_answer(folders, None, 6)


def test_states_that_no_loss_reads_are_not_returned(folders: PartFolders) -> None:
    model = grid_memory_model(folders, None)
    videos = model.packed_videos(collate([make_sample(folders, "a", make_frames(9), QUESTION)]))
    every = model.read_videos(videos, EverySegmentLoss().steps)
    final = model.read_videos(videos, model.loss_schedule.steps)
    some = model.read_videos(videos, lambda num_segments: [1])
    assert [list(each.states) for each in (every, final, some)] == [[0, 1, 2, 3, 4], [4], [1, 4]]
    for step, states in some.states.items():
        torch.testing.assert_close(states["memory"].reader.newest, every.states[step]["memory"].reader.newest)
    assert some.last is some.states[4]
