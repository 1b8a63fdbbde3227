import torch
from torch import Tensor

from components.interfaces import FrameFeatures, Segmenter
from components.watched_frames import WatchedFrames, segments_of_frames


class CutsWhereFirstNumberChanges(Segmenter):
    reads_patches = True

    def segment(self, cls: Tensor, frame_counts: Tensor, patches: Tensor | None = None) -> Tensor:
        assert patches is not None
        first = patches[:, 0, 0]
        assert len(first) == len(cls) == int(frame_counts.sum())
        return torch.cat([torch.zeros(1, dtype=torch.int64), (first[1:] != first[:-1]).long().cumsum(0)])


def test_segmenter_that_reads_patches_gets_those_of_the_frames_that_it_cuts() -> None:
    patches = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0])[:, None, None]
    features = FrameFeatures(torch.zeros(5, 2), patches)
    segmenter = CutsWhereFirstNumberChanges()
    assert segments_of_frames(segmenter, features, torch.tensor([5])).tolist() == [0, 0, 1, 1, 2]
    watched = WatchedFrames(torch.tensor([0, 2, 2, 4]), torch.tensor([4]), torch.tensor([0, 2, 2, 4]))
    assert segments_of_frames(segmenter, features, torch.tensor([5]), watched).tolist() == [0, 1, 1, 2]
