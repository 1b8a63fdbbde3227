"""The batch of one video, as a model reads it."""

import torch

from components.interfaces import TextInputs
from components.model import VideoLanguageModel
from components.packed_frames import PackedVideos
from datamodules.batch import Batch
from datamodules.media.sample_media import SampleMedia


def video_batch(model: VideoLanguageModel, video: SampleMedia, text: TextInputs) -> Batch:
    """The batch of one video and the conversations about it: frames on the model's device, the rest on the host."""
    return Batch(**packed_video(model, video)._asdict(), questions=(), **text._asdict())


def packed_video(model: VideoLanguageModel, video: SampleMedia) -> PackedVideos:
    """One video, its frames on the model's device."""
    device = next(model.parameters()).device
    return PackedVideos(
        frames=video.frames.to(device),
        frame_counts=torch.tensor([len(video.frames)]),
        frame_ms=video.frame_ms.to(device),
        picture_sizes=torch.tensor([video.picture_size or (0, 0)]),
    )
