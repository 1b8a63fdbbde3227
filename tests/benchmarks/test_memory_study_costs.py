from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.memory_study.arms import Run
from benchmarks.memory_study.costs import cost_of_video, most_by_length
from benchmarks.memory_study.held_out import single_videos
from benchmarks.memory_study.studies import QUICKSTART
from components.bridges.mean_pooling import MeanPooling
from components.packed_frames import PackedVideos
from tests.fixtures_models import (
    NUM_PATCHES,
    TWO_STREAMS,
    VISION_WIDTH,
    PartFolders,
    make_bridge,
    make_frames,
    make_model,
    make_quickstart_parts,
    make_two_reader_model,
    make_two_readers,
)

OF_ONE_FRAME = 4 * (NUM_PATCHES * VISION_WIDTH + 1)  # float32: the sum of the patches, and their number


def packed(*counts: int) -> PackedVideos:
    """Videos of so many frames each; the first frames are the same in any video."""
    frames = torch.cat([make_frames(count) for count in counts])
    frame_ms = torch.cat([1000 * torch.arange(count) for count in counts])
    return PackedVideos(frames, torch.tensor(counts), frame_ms, torch.zeros(len(counts), 2, dtype=torch.int64))


@pytest.mark.parametrize("num_frames", [1, 9])
def test_a_mean_costs_as_much_of_any_video(folders: PartFolders, num_frames: int) -> None:
    model = make_model(folders, bridge=MeanPooling)
    assert cost_of_video(model, packed(num_frames)) == (NUM_PATCHES, OF_ONE_FRAME)


def test_all_streams_and_the_words_between_them_are_counted(folders: PartFolders) -> None:
    readers = make_two_readers(MeanPooling, num_frames=3, capacity=4)
    model = make_model(folders, bridge=None, readers=readers, visual_prompt=TWO_STREAMS)
    alone = make_model(folders, bridge=None, readers=readers)
    with_words, without = (cost_of_video(each, packed(9)) for each in (model, alone))
    assert without.visual_tokens == NUM_PATCHES + 3 * NUM_PATCHES
    assert with_words.visual_tokens > without.visual_tokens
    # Four frames are stored, each with three numbers; and how many were read.
    assert with_words.state_bytes == OF_ONE_FRAME + 4 * 4 * NUM_PATCHES * VISION_WIDTH + 8 * (4 * 3 + 1)


def test_what_the_gate_does_not_admit_costs_nothing(folders: PartFolders) -> None:
    model = make_model(folders, bridge=partial(make_bridge, recurrence="selective"))
    update = model.bridge.get_submodule("update")
    for bias, num_segments in ((-50.0, 1), (50.0, 4)):
        torch.nn.init.constant_(update.of_memory.bias, bias)  # type: ignore[union-attr, arg-type]
        cost = cost_of_video(model, packed(8))
        of_segment = 4 * 3 * 16  # three memory tokens of width 16
        assert num_segments <= cost.state_bytes / of_segment - 1 < num_segments + 1


def test_a_video_costs_as_much_in_a_batch_as_by_itself(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    videos = packed(9, 3)
    costs = [cost_of_video(model, video) for video in single_videos(videos)]
    assert costs == [cost_of_video(model, packed(9)), cost_of_video(model, packed(3))]
    with pytest.raises(ValueError, match="one video at a time, got 2"):
        cost_of_video(model, videos)


def test_an_arm_that_is_not_trained_costs_at_most_as_if_it_admitted_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_quickstart_parts(tmp_path)
    folder = tmp_path / "runs/quickstart"
    costs = {arm: most_by_length(Run(folder, arm, 0, QUICKSTART), (1, 2)) for arm in ("selective", "grid_memory")}
    of_segment = 4 * 16 * 192
    selective = [cost.state_bytes / of_segment for cost in costs["selective"].values()]
    assert 1 + 4 <= selective[0] < 1 + 4 + 1
    assert 1 + 8 <= selective[1] < 1 + 8 + 1
    assert [cost.visual_tokens for cost in costs["grid_memory"].values()] == [4 * 72, 8 * 72]
