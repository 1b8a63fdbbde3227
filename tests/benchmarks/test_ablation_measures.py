"""What a question about a video costs: counted by hand for readers whose state is known."""

from functools import partial

import pytest
import torch

from benchmarks.ablation.held_out import HeldOutVideo, _single
from benchmarks.ablation.measures import cost_of_video
from components.bridges.mean_pooling import MeanPooling
from components.model import VideoLanguageModel
from datamodules.batch import Batch, collate
from tests.fixtures_models import (
    NUM_PATCHES,
    TWO_STREAMS,
    VISION_WIDTH,
    PartFolders,
    make_bridge,
    make_frames,
    make_model,
    make_sample,
    make_two_reader_model,
    make_two_readers,
)

OF_ONE_FRAME = 4 * (NUM_PATCHES * VISION_WIDTH + 1)  # float32: the sum of the patches, and their number


def asked(folders: PartFolders, *counts: int) -> Batch:
    """Videos of so many frames with a question each; the first frames are the same in any video."""
    samples = [
        make_sample(
            folders, str(count), make_frames(count), [[("which colour ?", "red")]], meta={"length": f"{count}x"}
        )
        for count in counts
    ]
    return collate(samples)


def costs(model: VideoLanguageModel, folders: PartFolders, num_frames: int) -> tuple[int, int, int]:
    """Frames, visual tokens and bytes of a video."""
    return cost_of_video(model, HeldOutVideo("", asked(folders, num_frames)))[:3]


@pytest.mark.parametrize("num_frames", [1, 9])
def test_a_mean_costs_as_much_of_any_video(folders: PartFolders, num_frames: int) -> None:
    model = make_model(folders, bridge=MeanPooling)
    assert costs(model, folders, num_frames) == (num_frames, NUM_PATCHES, OF_ONE_FRAME)


def test_all_streams_and_the_words_between_them_are_counted(folders: PartFolders) -> None:
    readers = make_two_readers(MeanPooling, num_frames=3, capacity=4)
    model = make_model(folders, bridge=None, readers=readers, visual_prompt=TWO_STREAMS)
    alone = make_model(folders, bridge=None, readers=readers)
    with_words, without = (costs(each, folders, 9) for each in (model, alone))
    assert without[1] == NUM_PATCHES + 3 * NUM_PATCHES
    assert with_words[1] > without[1]
    # Four frames are stored, each with three numbers; and how many were read.
    assert with_words[2] == OF_ONE_FRAME + 4 * 4 * NUM_PATCHES * VISION_WIDTH + 8 * (4 * 3 + 1)


def test_what_the_gate_does_not_admit_costs_nothing(folders: PartFolders) -> None:
    model = make_model(folders, bridge=partial(make_bridge, recurrence="selective"))
    update = model.bridge.get_submodule("update")
    for bias, num_segments in ((-50.0, 1), (50.0, 4)):
        torch.nn.init.constant_(update.of_memory.bias, bias)  # type: ignore[union-attr, arg-type]
        *_, state_bytes = costs(model, folders, 8)
        of_segment = 4 * 3 * 16  # three memory tokens of width 16
        assert num_segments <= state_bytes / of_segment - 1 < num_segments + 1


def test_a_video_of_a_batch_costs_as_much_as_by_itself(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    batch = asked(folders, 9, 3)
    videos = list(_single(batch))
    assert [video.length for video in videos] == ["9x", "3x"]
    assert [cost_of_video(model, video)[:3] for video in videos] == [costs(model, folders, each) for each in (9, 3)]
    with pytest.raises(ValueError, match="one video at a time, got 2"):
        cost_of_video(model, HeldOutVideo("", batch))
